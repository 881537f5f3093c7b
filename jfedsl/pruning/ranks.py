"""Ranks of scores, and how many of the lowest ranks a pruning rate removes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def ranks(scores: list[Array], scope: str) -> list[Array]:
    """The rank of every weight, 0 for the lowest score; ties are ranked by position.

    Args:
      scores: one array for each prunable leaf.
      scope: `global` ranks the weights of all leaves together, `layer` those of each leaf alone.

    Returns:
      int32 arrays of the same shapes.
    """
    if scope == "layer" or len(scores) < 2:
        return [_rank(s.reshape(-1)).reshape(s.shape) for s in scores]
    flat = _rank(jnp.concatenate([s.reshape(-1) for s in scores]))
    pieces = jnp.split(flat, np.cumsum([s.size for s in scores])[:-1])
    return [piece.reshape(s.shape) for piece, s in zip(pieces, scores, strict=True)]


def ranks_in_groups(scores: Array, groups: int) -> Array:
    """The rank of every channel within its normalization group; ties are ranked by position.

    Args:
      scores: of the channels of one layer, `[channels]`.
      groups: number of groups; each is `channels / groups` consecutive channels.

    Returns:
      int32 `[channels]`, from 0 in each group.
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
    """How many weights a rate removes, rounded to the nearest; a mask is `rank >= count`.

    Args:
      rates: float64, any shape.
      sizes: number of weights of each prunable leaf.
      scope: `global` or `layer`; see `ranks`.

    Returns:
      int32 `[..., leaves]`; with `global` every leaf has the count of all leaves together.
    """
    competitors = np.full(len(sizes), sum(sizes)) if scope == "global" else np.array(sizes)
    return np.rint(rates[..., None] * competitors).astype(np.int32)
