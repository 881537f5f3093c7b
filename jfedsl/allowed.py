"""What values settings may have, in words and as tests."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from jfedsl.compression.quantization import LEAST_BITS
from jfedsl.pruning import policy

OFF_BITS, MOST_BITS = 32, 16


class Allowed(NamedTuple):
    """A check of one value: what is allowed, in words, and the test."""

    text: str
    test: Callable[[Any], bool]


class OneOf(NamedTuple):
    """A check against the names of a table, those that users add to it included."""

    names: Collection[str]

    @property
    def text(self) -> str:
        """What is allowed, in words."""
        return f"one of {', '.join(self.names)}"

    def test(self, value: Any) -> bool:
        """Whether the table has that name."""
        return value in self.names


ANY = Allowed("any text", lambda value: True)
MOST = 2**31 - 1  # counters are int32


def whole(least: int, most: int = MOST) -> Allowed:
    """A whole number in a range."""
    return Allowed(f"a whole number from {least} to {most}", lambda value: least <= value <= most)


COUNT = whole(1)
RATE = Allowed("a rate in [0, 1)", lambda value: 0 <= value < 1)
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
    "relative compute in (0, 1]: one number, or one for each client, separated by commas, or a "
    "range such as 0.25-1",
    lambda text: text == "" or policy.parse(text) is not None,
)
POSITIVE = Allowed("a number above 0", lambda value: 0 < value < float("inf"))
NOT_NEGATIVE = Allowed("a number, 0 or more", lambda value: 0 <= value < float("inf"))


BITS = Allowed(
    f"{LEAST_BITS['uniform']} (qsgd: {LEAST_BITS['qsgd']}) to {MOST_BITS}, or {OFF_BITS} for off",
    lambda value: LEAST_BITS["uniform"] <= value <= MOST_BITS or value == OFF_BITS,
)
