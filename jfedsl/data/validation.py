"""Training examples of clients that are held out as the validation set."""

from typing import NamedTuple

import numpy as np

from jfedsl.data.partition import Shares

_PURPOSE = 0x76616C  # keeps the draws apart from those of the partition, which has the same seed


class HeldOut(NamedTuple):
    """The examples of clients, divided into training and validation.

    Attributes:
      shares: positions of each client's training examples, ascending, `[C][n_c]`.
      validation: positions of the validation set, ascending, int `[V]`.
      without: numbers of the clients that hold out nothing, int `[W]`.
    """

    shares: Shares
    validation: np.ndarray
    without: np.ndarray


def hold_out(shares: Shares, fraction: float, seed: int) -> HeldOut:
    """Holds out a fraction of each client's examples, rounded, and leaves at least one to train.

    A client's choice depends on its examples, its number and the seed. If a partition gives an
    example to several clients, none of them trains on it once it is held out.

    >>> held = hold_out([np.arange(10), np.array([10])], 0.2, seed=0)
    >>> [len(share) for share in held.shares], len(held.validation), held.without.tolist()
    ([8, 1], 2, [1])

    Args:
      shares: positions of each client's examples, `[C][n_c]`.
      fraction: of each client's examples, in [0, 1).
      seed: of the run.
    """
    is_held = np.zeros(1 + max(int(share.max()) for share in shares), bool)
    for client, share in enumerate(shares):
        is_held[_chosen(share, fraction, seed, client)] = True
    for share in shares:
        if is_held[share].all():  # only where clients share examples
            is_held[share[0]] = False
    kept = [share[~is_held[share]] for share in shares]
    pairs = zip(kept, shares, strict=True)
    without = np.array([len(rest) == len(share) for rest, share in pairs])
    return HeldOut(kept, np.flatnonzero(is_held), np.flatnonzero(without))


def held_count(examples: int, fraction: float) -> int:
    """How many of a client's examples are held out."""
    return min(int(fraction * examples + 0.5), examples - 1)


def needed(training: int, fraction: float) -> int:
    """The fewest examples of which a client keeps `training` for training.

    >>> needed(16, 0.2), needed(16, 0.0)
    (20, 16)
    """
    # The least with (1 - fraction) * examples > training - 0.5, as counts are rounded.
    examples = max(training, int((training - 0.5) / (1 - fraction)))
    while examples - held_count(examples, fraction) < training:
        examples += 1
    return examples


def _chosen(share: np.ndarray, fraction: float, seed: int, client: int) -> np.ndarray:
    rng = np.random.default_rng([_PURPOSE, seed, client])
    return rng.permutation(share)[: held_count(len(share), fraction)]
