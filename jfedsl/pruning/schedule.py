"""How the pruning rate grows over rounds."""

import numpy as np


def cubic_ramp(rates: np.ndarray, ramp_rounds: int) -> np.ndarray:
    """Rates of rounds 0 to `ramp_rounds`; later they stay constant (arXiv 1710.01878, equation 1).

    Args:
      rates: final rates, float64 `[G]`.
      ramp_rounds: rounds from no pruning to the final rate; 0 prunes fully from the start.

    Returns:
      float64 `[ramp_rounds + 1, G]`.
    """
    progress = np.arange(ramp_rounds + 1) / ramp_rounds if ramp_rounds else np.ones(1)
    return np.outer(1.0 - (1.0 - progress) ** 3, rates)
