"""How alike a bound and a measurement rank settings, seed by seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

# By its name, a rank correlation of two lists of numbers.
STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "Spearman": spearmanr, "Kendall": kendalltau,
}  # fmt: skip
_FEWEST = 3  # two settings agree or they do not
Values = Sequence[float | None]


def rank_correlation(name: str, bounds: Values, measured: Values) -> float | None:
    """The rank correlation of bounds and measurements of the same settings, with one seed.

    Args:
      name: of the correlation, from `STATISTICS`; Kendall's is tau-b.
      bounds: of every setting; None where there is none.
      measured: likewise.

    Returns:
      A number from -1 to 1; None for fewer than three settings that have both, or if all bounds or
      all measurements are equal.
    """
    both = zip(bounds, measured, strict=True)
    pairs = np.array([(b, m) for b, m in both if b is not None and m is not None], np.float64)
    if len(pairs) < _FEWEST or (pairs == pairs[0]).all(axis=0).any():
        return None
    return float(STATISTICS[name](pairs[:, 0], pairs[:, 1]).statistic)
