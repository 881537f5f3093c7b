"""Random 16-bit numbers, which dropout and stochastic rounding draw for every entry."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.random import threefry_2x32

LEVELS = 2**16


def uint16(key: Array, shape: tuple[int, ...]) -> Array:
    """Independent draws, uniform on 0, ..., 65535.

    `jax.random` spends a 64-bit block of the generator on every draw, however narrow; here one
    block gives four draws.

    Args:
      key: scalar PRNG key. Keys of other implementations than threefry draw by `jax.random`.
      shape: of the result.

    Returns:
      uint16 of that shape.
    """
    size = math.prod(shape)
    (key,) = jax.random.split(key, 1)  # counts as a use of the key in JAX's check for reuse
    words = -(-size // 2)
    if jax.random.key_impl(key) == "threefry2x32":
        drawn = threefry_2x32(jax.random.key_data(key), jnp.arange(words, dtype=jnp.uint32))
    else:
        drawn = jax.random.bits(key, (words,), jnp.uint32)
    halves = lax.bitcast_convert_type(drawn, jnp.uint16)
    return halves.reshape(-1)[:size].reshape(shape)
