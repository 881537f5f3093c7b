"""The settings of pictures, a part of `Config`."""

import dataclasses
from collections.abc import Sequence

from jfedsl.config.allowed import Allowed, setting
from jfedsl.errors import flag_error

FORMATS = ("png", "pdf", "svg")
_FORMATS = Allowed(
    f"some of {', '.join(FORMATS)}, separated by commas, each once",
    lambda values: bool(values) and set(values) <= set(FORMATS) and len(set(values)) == len(values),
    FORMATS,
)


@dataclasses.dataclass(frozen=True)
class FigureFields:
    """Settings of the pictures of a run or a study."""

    figure_format: tuple[str, ...] = setting(
        ("png",), "Formats of pictures.", _FORMATS, may_change_on_resume=True
    )


def formats_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The formats in the entries of --figure_format, for commands that take no config.

    >>> formats_of(["png", "pdf"])
    ('png', 'pdf')

    Raises:
      UserError: no entries, an unknown format, or one that is given twice.
    """
    if not _FORMATS.test(texts):
        raise flag_error("figure_format", ",".join(texts), _FORMATS.text, FORMATS)
    return tuple(texts)
