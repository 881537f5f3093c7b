"""Padding at the end of sequences, which makes those of a batch equally long."""

import jax.numpy as jnp
from jax import Array


def is_position(x: Array, lengths: Array | None) -> Array | None:
    """Which positions of sequences `x[B, T, D, ...]` are no padding, bool `[B, T, 1, ...]`.

    None without padding, and where examples are no sequences any more, but vectors `[B, D]`.
    """
    if lengths is None or x.ndim < 3:
        return None
    here = jnp.arange(x.shape[1])[None] < lengths[:, None]
    return here.reshape(*here.shape, *(1,) * (x.ndim - 2))


def without_padding(x: Array, lengths: Array | None) -> Array:
    """Sequences `[B, T, D, ...]` with 0 at the positions that are padding."""
    here = is_position(x, lengths)
    return x if here is None else jnp.where(here, x, jnp.zeros_like(x))
