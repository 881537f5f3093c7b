"""Places of scores in ascending order, compared with how many weights or channels to remove."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def ranks(scores: list[Array], scope: str) -> list[Array]:
    """Place of every weight in ascending order of score, ties by position.

    Args:
      scores: one array a prunable leaf.
      scope: global ranks all leaves together, layer each leaf alone.

    Returns:
      int32 arrays of the same shapes.
    """
    if scope == "layer" or len(scores) < 2:
        return [_rank(s.reshape(-1)).reshape(s.shape) for s in scores]
    flat = _rank(jnp.concatenate([s.reshape(-1) for s in scores]))
    pieces = jnp.split(flat, np.cumsum([s.size for s in scores])[:-1])
    return [piece.reshape(s.shape) for piece, s in zip(pieces, scores, strict=True)]


def ranks_in_groups(scores: Array, groups: int) -> Array:
    """Place of every channel within its group in ascending order of score, ties by position.

    Args:
      scores: of the channels of one layer, `[count]`.
      groups: that lie in them one after the other, of equal size.

    Returns:
      int32 `[count]`, each group from 0.
    """
    return jax.vmap(_rank)(scores.reshape(groups, -1)).reshape(-1)


def _rank(scores: Array) -> Array:
    order = jnp.argsort(scores, stable=True)
    return (
        jnp.zeros(scores.shape, jnp.int32)
        .at[order]
        .set(jnp.arange(scores.size, dtype=jnp.int32), unique_indices=True)
    )


def removed_counts(rates: np.ndarray, sizes: list[int], scope: str) -> np.ndarray:
    """How many weights a rate removes among those a leaf is ranked with, rounded to the nearest.

    Args:
      rates: float64, any shape.
      sizes: weights of each prunable leaf.
      scope: global or layer, as in `ranks`.

    Returns:
      int32 `[..., leaves]`; under `global` every leaf has the count of all leaves together.
    """
    competitors = np.full(len(sizes), sum(sizes)) if scope == "global" else np.array(sizes)
    return np.rint(rates[..., None] * competitors).astype(np.int32)
