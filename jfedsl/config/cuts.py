"""What `--cut` says: one cut for all clients, one for each, a range, or cuts by resource."""

import re
from typing import NamedTuple

BY_RESOURCE = "by_resource"


class CutText(NamedTuple):
    """A cut, or cuts, as the flag says it.

    Attributes:
      names: one for all clients, one for each, or the two ends of a range; () for any.
      is_range: whether `names` are the ends of a range.
      by_resource: whether clients' devices and links decide.
    """

    names: tuple[str, ...]
    is_range: bool = False
    by_resource: bool = False

    @property
    def differs(self) -> bool:
        """Whether clients may have different cuts."""
        return self.by_resource or len(self.names) > 1

    def __str__(self) -> str:
        """The text of the flag."""
        names = ("-" if self.is_range else ",").join(self.names)
        if not self.by_resource:
            return names
        return f"{BY_RESOURCE}({names})" if names else BY_RESOURCE


def parse(text: str) -> CutText:
    """What a text says. A layer whose name has a dash or a comma can be given by its number.

    >>> parse("pool1"), parse("pool1-pool3").is_range, parse("pool1, pool2").names
    (CutText(names=('pool1',), is_range=False, by_resource=False), True, ('pool1', 'pool2'))
    >>> parse("-2").names, str(parse("by_resource(pool1-pool3)"))
    (('-2',), 'by_resource(pool1-pool3)')
    """
    called = re.fullmatch(rf"\s*{BY_RESOURCE}\s*(?:\((.*)\))?\s*", text)
    if called is not None:
        ends = _ends(called[1] or "")
        names = ends or ((called[1],) if called[1] else ())
        return CutText(names, len(names) > 1, by_resource=True)
    if "," in text:
        return CutText(tuple(name.strip() for name in text.split(",")))
    ends = _ends(text)
    return CutText((text,)) if ends is None else CutText(ends, is_range=True)


def _ends(text: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"\s*([^-\s][^-]*?)\s*-\s*([^-].*?)\s*", text)
    return None if found is None else (found[1], found[2])
