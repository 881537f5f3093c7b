"""Derivation of all PRNG keys: run key -> round -> step -> client -> stage.

Keys are derived from counters and never stored, so that a resumed run repeats exactly. The client's
number is folded in, so that two clients never share noise.
"""

import enum

import jax
from jax import Array


class Purpose(enum.IntEnum):
    """The first number folded into the run key, one for each independent use."""

    INITIAL_WEIGHTS = 0
    BATCHES = 1
    PARTICIPANTS = 2
    EXCHANGE = 3
    PRUNING = 4
    MODEL_UP = 5
    AUGMENTATION = 6
    MODEL_DOWN = 7
    MEASUREMENT = 8
    RADIO = 9
    HARDWARE = 10
    TURNS = 11
    COLLECTIVE = 12
    DEPLOYED = 13
    AUXILIARY = 14
    ADAPTERS = 15


class Stage(enum.IntEnum):
    """The last number folded into a key, one for each use in an exchange of a client."""

    SMASHED = 0
    CUT_GRADIENT = 1
    CLIENT_GRADIENT = 2
    CLIENT_BACKWARD = 3
    SERVER_ORDER = 4
    TAIL_BACKWARD = 5


def fold(key: Array, *data: Array | int) -> Array:
    """The key with each number folded in, in order.

    Args:
      key: scalar PRNG key.
      *data: non-negative integers, Python or traced.
    """
    for number in data:
        key = jax.random.fold_in(key, number)
    return key
