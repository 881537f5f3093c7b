"""Pruning rates from what clients can compute."""

from collections.abc import Sequence

import numpy as np


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
