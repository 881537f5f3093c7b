"""How the bound compares with a run, in a word."""

import enum

import jax.numpy as jnp


class Verdict(enum.StrEnum):
    """How the bound compares with a run."""

    HOLDS = "holds"
    VACUOUS = "vacuous"
    BROKEN = "assumption broken"
    DIVERGED = "diverged"


def verdict(total: float, average: float, largest: float, steepness: float) -> Verdict:
    """Compares the bound with a run.

    Args:
      total: the bound.
      average: measured mean of the squared gradient norm; not finite if the run diverged.
      largest: largest measured squared gradient norm.
      steepness: largest measured gamma * beta.

    Returns:
      DIVERGED; or BROKEN if gamma * beta exceeds 1 or the average exceeds the bound, which means
      that a constant was larger than measured; or VACUOUS if the bound exceeds the largest squared
      norm; or HOLDS.
    """
    if not jnp.isfinite(average) or not jnp.isfinite(largest):
        return Verdict.DIVERGED
    if not (steepness <= 1 and average <= total):  # also where one of them is NaN
        return Verdict.BROKEN
    return Verdict.VACUOUS if total > largest else Verdict.HOLDS
