"""The examples of a client's next batch, computed inside the compiled round.

No order of examples is stored: it follows from the key, the client and its count of batches.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data.partition import Partition
from jfedsl.keys import fold

SAMPLINGS = ("epoch", "replacement")
_FEISTEL_ROUNDS = 8


def shuffled(key: Array, positions: Array, size: Array) -> Array:
    """The images of positions under a random permutation of `range(size)`.

    A Feistel network is a permutation of a power of four, here the next one that is at least `size`
    and 64, as smaller ones mix too little to be uniform. It is applied again to results outside of
    the range until they fall inside (cycle walking: Black and Rogaway, Ciphers with arbitrary
    finite domains, 2002). Single positions can be evaluated, so that an epoch's order needs neither
    a sort nor memory.

    >>> order = shuffled(jax.random.key(0), jnp.arange(5), jnp.int32(5))
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]

    Args:
      key: scalar PRNG key; each key is another permutation.
      positions: int32 `[B]`, each in [0, size).
      size: int32 scalar, at least 1, at most 2^30; may be traced.

    Returns:
      int32 `[B]`, distinct for distinct positions.
    """
    round_keys = jax.random.bits(key, (_FEISTEL_ROUNDS,), jnp.uint32)
    bits = 32 - lax.clz(jnp.maximum(size - 1, 1).astype(jnp.uint32))
    half = jnp.maximum((bits + 1) // 2, 3)
    mask = (jnp.uint32(1) << half) - 1
    limit, encrypt = size.astype(jnp.uint32), partial(_encrypt, round_keys, half, mask)

    # The loop ends: it follows a cycle of the permutation that starts inside the range.
    walked = lax.while_loop(
        lambda x: jnp.any(x >= limit),
        lambda x: jnp.where(x >= limit, encrypt(x), x),
        encrypt(positions.astype(jnp.uint32)),
    )
    return walked.astype(jnp.int32)


# Compiled in place, but traced once for all programs.
@jax.jit
def _encrypt(round_keys: Array, half: Array, mask: Array, x: Array) -> Array:
    """Feistel rounds on the halves of `x`, of `half` bits each."""
    left, right = x >> half, x & mask
    for i in range(_FEISTEL_ROUNDS):
        left, right = right, left ^ (_hash(right, round_keys[i]) & mask)
    return (left << half) | right


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

    Under `epoch` sampling a client takes its examples in a random order, new each epoch; those left
    over when no whole batch remains are left out of that epoch. Under `replacement` the examples of
    every batch are drawn independently.

    Args:
      key: the run's key for batches.
      partition: where the examples of clients lie in the training data.
      client: int32 scalar, number of the client.
      drawn: int32 scalar, number of batches that the client has drawn before.
      batch_size: B; under `epoch` at most the client's number of examples.
      sampling: one of `SAMPLINGS`.

    Returns:
      int32 `[B]`, positions in the training data.
    """
    size, start = partition.sizes[client], partition.starts[client]
    if sampling == "replacement":
        positions = jax.random.randint(fold(key, client, drawn), (batch_size,), 0, size)
    else:
        batches_an_epoch = size // batch_size
        first = drawn % batches_an_epoch * batch_size
        epoch_key = fold(key, client, drawn // batches_an_epoch)
        positions = shuffled(epoch_key, first + jnp.arange(batch_size, dtype=jnp.int32), size)
    return start + positions
