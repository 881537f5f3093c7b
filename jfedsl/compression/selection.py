"""Choosing a given number of the highest scores, without sorting."""

import jax.numpy as jnp
from jax import Array, lax


def largest(scores: Array, counts: Array) -> Array:
    """Marks the `counts[r]` highest scores of each row; of equal scores the first ones.

    The least score to choose is determined bit by bit; then, among the scores equal to it, the last
    position to choose. That takes about fifty passes that only count; XLA on a CPU sorts slowly.

    Args:
      scores: uint32 `[R, N]`.
      counts: int32 `[R]`, in [0, N].

    Returns:
      bool `[R, N]`.
    """
    size, counts = scores.shape[1], counts[:, None]

    def raise_least(i: Array, least: Array) -> Array:
        higher = least | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(_count(scores >= higher) >= counts, higher, least)

    least = lax.fori_loop(0, 32, raise_least, jnp.zeros(counts.shape, jnp.uint32))
    above, equal = scores > least, scores == least
    needed = counts - _count(above)
    position = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    passes = size.bit_length()

    def lower_end(i: Array, end: Array) -> Array:
        shorter = end - (1 << (passes - 1 - i))
        return jnp.where(_count(equal & (position < shorter)) >= needed, shorter, end)

    end = lax.fori_loop(0, passes, lower_end, jnp.full(counts.shape, 2**passes - 1))
    return above | (equal & (position < end))


def _count(flags: Array) -> Array:
    return jnp.sum(flags, axis=1, keepdims=True, dtype=jnp.int32)


def counted_share(
    candidates: Array | None, shape: tuple[int, ...], share: float | Array
) -> tuple[Array, Array]:
    """The number of candidates in a share of each row: at least one where a row has candidates.

    Args:
      candidates: bool `[R, N]`; None: all.
      shape: `(R, N)`.
      share: fraction of the candidates, in (0, 1].

    Returns:
      How many to choose, and the number of candidates, both int32 `[R]`.
    """
    rows, width = shape
    among = jnp.full(rows, width, jnp.int32) if candidates is None else _count(candidates)[:, 0]
    counts = jnp.round(share * among.astype(jnp.float32)).astype(jnp.int32)
    return jnp.clip(counts, jnp.minimum(1, among), among), among
