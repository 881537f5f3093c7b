"""Random 16-bit numbers: what dropout and stochastic rounding draw for every entry they send."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.random import threefry_2x32

LEVELS = 2**16


def uint16(key: Array, shape: tuple[int, ...]) -> Array:
    """Independent uniform draws of 0, ..., 65535 of a shape.

    `jax.random` spends a 64-bit block of the generator on every draw, however few bits it takes;
    here a block makes four.

    Args:
      key: scalar PRNG key of any implementation; others than threefry draw through `jax.random`.
      shape: of the result.
    """
    size = math.prod(shape)
    (key,) = jax.random.split(key, 1)  # so that JAX's check of keys used twice sees this one used
    words = -(-size // 2)
    if jax.random.key_impl(key) == "threefry2x32":
        drawn = threefry_2x32(jax.random.key_data(key), jnp.arange(words, dtype=jnp.uint32))
    else:
        drawn = jax.random.bits(key, (words,), jnp.uint32)
    halves = lax.bitcast_convert_type(drawn, jnp.uint16)
    return halves.reshape(-1)[:size].reshape(shape)
