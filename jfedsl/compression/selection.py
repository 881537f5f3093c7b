"""Choosing exactly so many of the highest scores, without sorting."""

import jax.numpy as jnp
from jax import Array, lax


def largest(scores: Array, counts: Array) -> Array:
    """Marks the `counts[r]` highest scores of each row; of equal ones those that come first.

    The least score to take is found bit by bit, then how far into its equals to go: some fifty
    passes that only count, where XLA would sort slowly on CPU.

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
    place = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    passes = size.bit_length()

    def lower_end(i: Array, end: Array) -> Array:
        shorter = end - (1 << (passes - 1 - i))
        return jnp.where(_count(equal & (place < shorter)) >= needed, shorter, end)

    end = lax.fori_loop(0, passes, lower_end, jnp.full(counts.shape, 2**passes - 1))
    return above | (equal & (place < end))


def _count(flags: Array) -> Array:
    return jnp.sum(flags, axis=1, keepdims=True, dtype=jnp.int32)


def counted_share(
    open_: Array | None, shape: tuple[int, ...], share: float | Array
) -> tuple[Array, Array]:
    """How many of each row a share of it is, one at least where there are any.

    Args:
      open_: bool `[R, N]`, what can be chosen; None: everything.
      shape: `(R, N)`.
      share: in (0, 1].

    Returns:
      How many to choose, and among how many, int32 `[R]` both.
    """
    among = jnp.full(shape[0], shape[1], jnp.int32) if open_ is None else _count(open_)[:, 0]
    counts = jnp.round(share * among.astype(jnp.float32)).astype(jnp.int32)
    return jnp.clip(counts, jnp.minimum(1, among), among), among
