"""Pruning rates from the computing power of clients."""

from collections.abc import Sequence

import numpy as np


def rates_within(
    capacities: np.ndarray, ladder: Sequence[float], arithmetic: Sequence[float]
) -> np.ndarray:
    """The least rate with which a client keeps up with a client of full speed that prunes nothing.

    A client that is too slow for every rung of the ladder gets the narrowest.

    Args:
      capacities: computing speed relative to a full-speed client, `[C]`, in (0, 1].
      ladder: fractions of channels that stay, descending, `[R]`.
      arithmetic: FLOPs at each rung over those of the dense model, `[R]`.

    Returns:
      Rates, float64 `[C]`.
    """
    fits = np.asarray(arithmetic)[None, :] <= np.asarray(capacities)[:, None]
    rung = np.where(fits.any(axis=1), fits.argmax(axis=1), len(ladder) - 1)
    return 1.0 - np.asarray(ladder, np.float64)[rung]
