"""Pruning rates from what clients can compute."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Capacities(NamedTuple):
    """Relative compute of clients: one value each, one for all, or spread over a range."""

    values: tuple[float, ...]
    is_range: bool

    def spread(self, clients: int, seed: int) -> np.ndarray:
        """The capacity of every client, float64 `[C]`; a range in a random order."""
        if not self.is_range:
            return np.broadcast_to(np.asarray(self.values), clients)
        even = np.linspace(self.values[0], self.values[-1], clients)
        return np.random.default_rng((seed, clients)).permutation(even)


def parse(text: str) -> Capacities | None:
    """Reads `0.5`, `0.25,1,1` or `0.25-1`; None unless all are in (0, 1] and a range ascends.

    >>> parse("0.25-1"), parse("0.5,2")
    (Capacities(values=(0.25, 1.0), is_range=True), None)
    """
    number = r"\s*(\d*\.?\d+)\s*"
    limits = re.fullmatch(f"{number}-{number}", text)
    try:
        parts = limits.groups() if limits else text.split(",")
        values = tuple(float(part) for part in parts)
    except ValueError:
        return None
    inside = all(0 < value <= 1 for value in values)
    ordered = limits is None or values[0] <= values[1]
    return Capacities(values, limits is not None) if inside and ordered else None


def rates_within(
    capacities: np.ndarray, ladder: Sequence[float], arithmetic: Sequence[float]
) -> np.ndarray:
    """Rates of the widest rung that a client computes no longer than one of capacity 1 the dense.

    A client that is too slow for every rung gets the narrowest.

    Args:
      capacities: relative compute, `[C]`.
      ladder: fractions of channels that stay, descending, `[R]`.
      arithmetic: FLOPs at each rung over those of the dense model, `[R]`.

    Returns:
      float64 `[C]`.
    """
    fits = np.asarray(arithmetic)[None, :] <= np.asarray(capacities)[:, None]
    rung = np.where(fits.any(axis=1), fits.argmax(axis=1), len(ladder) - 1)
    return 1.0 - np.asarray(ladder, np.float64)[rung]
