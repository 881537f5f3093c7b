"""A number for each client: one for all, one each, or a range spread over them."""

import re
from typing import NamedTuple

import numpy as np


class PerClient(NamedTuple):
    """What a setting says of clients' numbers.

    Attributes:
      values: one for all, one for each client, or the two ends of a range.
      is_range: whether they are ends.
    """

    values: tuple[float, ...]
    is_range: bool = False

    def __str__(self) -> str:
        """As expressions have it: `8`, `[8,4]` or `4-8`."""
        numbers = [f"{v:.0f}" if v == int(v) else repr(v) for v in self.values]
        if self.is_range:
            return "-".join(numbers)
        return numbers[0] if len(numbers) == 1 else f"[{','.join(numbers)}]"

    def suits(self, clients: int) -> bool:
        """Whether there is a number for each of so many clients."""
        return self.is_range or len(self.values) in (1, clients)

    def spread(self, clients: int, seed: int) -> np.ndarray:
        """Every client's number, float64 `[C]`; a range evenly, in an order drawn from the seed.

        Clients stand in the same order in every range, so that a client that has much of one
        thing has much of another.
        """
        if not self.is_range:
            return np.broadcast_to(np.asarray(self.values), clients)
        even = np.linspace(self.values[0], self.values[-1], clients)
        return np.random.default_rng((seed, clients)).permutation(even)


def parse(text: str) -> PerClient | None:
    """Reads `0.5`, `0.25,1,1` or `0.25-1`; None unless that is numbers, and a range ascends.

    >>> parse("0.25-1"), parse("8,4")
    (PerClient(values=(0.25, 1.0), is_range=True), PerClient(values=(8.0, 4.0), is_range=False))
    """
    end = r"\s*((?:\d+\.?|\d*\.\d+)(?:[eE][+-]?\d+)?)\s*"
    limits = re.fullmatch(f"{end}-{end}", text)
    try:
        parts = limits.groups() if limits else text.split(",")
        values = tuple(float(part) for part in parts)
    except ValueError:
        return None
    ordered = limits is None or values[0] <= values[1]
    return PerClient(values, limits is not None) if ordered else None
