"""What values settings may have, in words and as tests."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from jfedsl import per_client
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.compression.registry import LEAST_BITS, MOST_BITS


class Allowed(NamedTuple):
    """A check of one value: what is allowed, in words, and the test."""

    text: str
    test: Callable[[Any], bool]
    names: Collection[str] = ()


class OneOf(NamedTuple):
    """A check against the names of a table, those that users add to it included.

    Attributes:
      names: of the table.
      forms: other values, such as `file:PATH` with any path.
    """

    names: Collection[str]
    forms: Collection[str] = ()

    @property
    def text(self) -> str:
        """What is allowed, in words."""
        others = " (--plugin adds others)" if isinstance(self.names, dict) else ""
        forms = f", or {', '.join(self.forms)}" if self.forms else ""
        return f"one of {', '.join(self.names)}{others}{forms}"

    def test(self, value: Any) -> bool:
        """Whether the table has that name, or the value has one of the forms."""
        form, _, rest = str(value).partition(":")
        return value in self.names or bool(rest and form in {f.split(":")[0] for f in self.forms})


class NamesOf(NamedTuple):
    """A check of several names against a table, each once; or of `none` alone."""

    names: Collection[str]

    @property
    def text(self) -> str:
        """What is allowed, in words."""
        names = ", ".join(self.names)
        return f"some of {names} (--plugin adds others), separated by commas, or none"

    def test(self, value: Any) -> bool:
        """Whether the table has all of these names."""
        named = bool(value) and set(value) <= set(self.names) and len(set(value)) == len(value)
        return named or value == ("none",)


ANY = Allowed("any text", lambda value: True)
FOLDER = Allowed("a folder on this machine", lambda value: True)


def setting(
    default: Any,
    help_: str,
    allowed: Allowed | OneOf | NamesOf = ANY,
    may_change_on_resume: bool = False,
) -> Any:
    """A field of a config; `may_change_on_resume` ones may change when a run is resumed."""
    metadata = {"help": help_, "allowed": allowed, "may_change_on_resume": may_change_on_resume}
    return dataclasses.field(default=default, metadata=metadata)


MOST = 2**31 - 1  # counters are int32


def whole(least: int, most: int = MOST) -> Allowed:
    """A whole number in a range."""
    return Allowed(f"a whole number from {least} to {most}", lambda value: least <= value <= most)


COUNT = whole(1)
FROM_DATA = 0  # clients, until the data is loaded and says how many there are
CLIENT_COUNT = Allowed(
    f"{COUNT.text}, or {FROM_DATA} with --partition=natural for as many as the data has",
    whole(FROM_DATA).test,
)


def _numbers(text: str, test: Callable[[float], bool]) -> bool:
    """Whether a text is one number, several or a range, and all of them suit."""
    numbers = per_client.parse(text)
    return numbers is not None and all(map(test, numbers.values))


def _are_bits(text: str) -> bool:
    """Whether a text is bits of quantizers; 32 is no end of a range."""
    numbers = per_client.parse(text)
    off = () if numbers is None or numbers.is_range else (FLOAT_BITS,)
    usual = range(LEAST_BITS["uniform"], MOST_BITS + 1)
    return _numbers(text, lambda value: value in usual or value in off)


RATE = Allowed("a rate in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = Allowed("a fraction in [0, 1)", RATE.test)
RATES = Allowed(
    "a rate in [0, 1), or one for each client, separated by commas",
    lambda values: bool(values) and all(0 <= value < 1 for value in values),
)
LADDER = Allowed(
    "distinct fractions in (0, 1], separated by commas",
    lambda values: (
        bool(values) and all(0 < value <= 1 for value in values) and len(set(values)) == len(values)
    ),
)
CAPACITY = Allowed(
    "relative compute in (0, 1] (or one for each client, separated by commas, or a range such as "
    "0.25-1)",
    lambda text: text == "" or _numbers(text, lambda value: 0 < value <= 1),
)
POSITIVE = Allowed("a number above 0", lambda value: 0 < value < float("inf"))
NOT_NEGATIVE = Allowed("a number, 0 or more", lambda value: 0 <= value < float("inf"))


def between(least: float, most: float) -> Allowed:
    """A number in a range."""
    return Allowed(
        f"a number from {least:g} to {most:g}", lambda value: least <= float(value) <= most
    )


EACH = "(or one for each client, separated by commas, or a range such as"
BITS = Allowed(
    f"{LEAST_BITS['uniform']} (qsgd: {LEAST_BITS['qsgd']}) to {MOST_BITS}, or {FLOAT_BITS} for "
    f"off {EACH} 4-8)",
    _are_bits,
)
DROPOUT_RATES = Allowed(
    f"a rate in [0, 1) {EACH} 0.1-0.5)", lambda text: _numbers(text, lambda value: 0 <= value < 1)
)
AMOUNTS = Allowed(
    f"a number from 1 to 1e15 {EACH} 1e9-1e10)",
    lambda text: _numbers(text, lambda value: 1 <= value <= 1e15),
)
POWERS = Allowed(
    f"a number from 0 to 100 {EACH} 20-23)",
    lambda text: _numbers(text, lambda value: 0 <= value <= 100),
)
