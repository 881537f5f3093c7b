"""Settings with a number for each client: one for all, a list, or a range spread over clients."""

import re
from typing import NamedTuple

import numpy as np


class PerClient(NamedTuple):
    """The value of a setting that may differ between clients.

    >>> PerClient((4.0, 8.0), is_range=True).spread(clients=3, seed=0).tolist()
    [8.0, 6.0, 4.0]

    Attributes:
      values: one number for all clients, one for each, or the two ends of a range.
      is_range: whether `values` are the ends of a range.
    """

    values: tuple[float, ...]
    is_range: bool = False

    def __str__(self) -> str:
        """The text in a compressor expression: `8`, `[8,4]` or `4-8`."""
        numbers = [f"{v:.0f}" if v == int(v) else repr(v) for v in self.values]
        if self.is_range:
            return "-".join(numbers)
        return numbers[0] if len(numbers) == 1 else f"[{','.join(numbers)}]"

    def suits(self, clients: int) -> bool:
        """Whether it gives a number to each of `clients` clients; 0 where that is not known."""
        return self.is_range or len(self.values) in (1, clients) or not clients

    def spread(self, clients: int, seed: int) -> np.ndarray:
        """Every client's number, float64 `[C]`.

        A range is spread evenly, in a random order of clients. The order depends on the seed and
        the number of clients only, so that a client with a high value in one setting has high
        values in all.
        """
        if not self.is_range:
            return np.broadcast_to(np.asarray(self.values), clients)
        even = np.linspace(self.values[0], self.values[-1], clients)
        return np.random.default_rng((seed, clients)).permutation(even)


def parse(text: str) -> PerClient | None:
    """Parses `0.5`, `0.25,1,1` or `0.25-1`; None for other texts and for a descending range.

    >>> parse("0.25-1"), parse("8,4")
    (PerClient(values=(0.25, 1.0), is_range=True), PerClient(values=(8.0, 4.0), is_range=False))
    """
    number = r"\s*((?:\d+\.?|\d*\.\d+)(?:[eE][+-]?\d+)?)\s*"
    ends = re.fullmatch(f"{number}-{number}", text)
    try:
        parts = ends.groups() if ends else text.split(",")
        values = tuple(float(part) for part in parts)
    except ValueError:
        return None
    is_ordered = ends is None or values[0] <= values[1]
    return PerClient(values, ends is not None) if is_ordered else None
