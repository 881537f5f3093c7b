"""Which examples a client sees in its next exchange, found on the device, no order stored."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data.partition import Partition
from jfedsl.keys import fold

SAMPLINGS = ("epoch", "replacement")
_FEISTEL_ROUNDS = 8


def shuffled(key: Array, positions: Array, size: Array) -> Array:
    """Where each position of `range(size)` lands in a random order of that range.

    A Feistel network over the next power of four (at least 64, as narrower ones mix too little to
    be even), walked until it falls inside the range (format-preserving encryption, Black and
    Rogaway 2002): a bijection evaluated only where it is asked for, so an epoch's order needs
    neither a sort nor memory.

    Args:
      key: scalar PRNG key; another key is another order.
      positions: int32 `[B]`, each in [0, size).
      size: int32 scalar, at least 1, at most 2^30; may be traced.

    Returns:
      int32 `[B]`, distinct for distinct positions.
    """
    keys = jax.random.bits(key, (_FEISTEL_ROUNDS,), jnp.uint32)
    bits = 32 - lax.clz(jnp.maximum(size - 1, 1).astype(jnp.uint32))
    half = jnp.maximum((bits + 1) // 2, 3)
    mask = (jnp.uint32(1) << half) - 1
    limit = size.astype(jnp.uint32)

    def encrypt(x: Array) -> Array:
        left, right = x >> half, x & mask
        for i in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_hash(right, keys[i]) & mask)
        return (left << half) | right

    walked = lax.while_loop(
        lambda x: jnp.any(x >= limit),
        lambda x: jnp.where(x >= limit, encrypt(x), x),
        encrypt(positions.astype(jnp.uint32)),
    )
    return walked.astype(jnp.int32)


def _hash(x: Array, key: Array) -> Array:
    """Mixes every bit of `x + key` into every other (MurmurHash3's finaliser)."""
    x = x + key
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def draw(
    key: Array, partition: Partition, client: Array, drawn: Array, batch_size: int, sampling: str
) -> Array:
    """Indices of one client's next batch.

    Under `epoch` sampling a client walks through its examples in a random order, new each epoch;
    examples that fill no whole batch wait for the next epoch. Under `replacement` every example of
    every batch is drawn anew.

    Args:
      key: the run's key for batches.
      partition: of the training split.
      client: int32 scalar.
      drawn: int32 scalar, batches this client has drawn before.
      batch_size: B; under `epoch` at most the client's number of examples.
      sampling: epoch or replacement.

    Returns:
      int32 `[B]`, positions in the data.
    """
    size, start = partition.sizes[client], partition.starts[client]
    if sampling == "replacement":
        positions = jax.random.randint(fold(key, client, drawn), (batch_size,), 0, size)
    else:
        in_epoch = size // batch_size
        first = drawn % in_epoch * batch_size
        order = fold(key, client, drawn // in_epoch)
        positions = shuffled(order, first + jnp.arange(batch_size, dtype=jnp.int32), size)
    return start + positions
