"""How the training examples are spread over clients.

Every partition is a list of index lists, drawn with NumPy from the seed alone, so that it does not
depend on the model, the cut or the compression. Dirichlet and shards after arXiv 1909.06335 and
arXiv 1602.05629.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Shares = list[np.ndarray]


class EmptyClients(ValueError):
    """A partition left clients without examples; the text names them."""


class Partition(NamedTuple):
    """Index lists laid end to end: client n owns `indices[starts[n] : starts[n] + sizes[n]]`.

    Attributes:
      indices: int32 `[N]`, positions in the training split.
      starts: int32 `[C]`.
      sizes: int32 `[C]`.
    """

    indices: Array
    starts: Array
    sizes: Array


def pack(shares: Shares) -> Partition:
    """Lays index lists `[C][n_c]` end to end."""
    sizes = np.array([len(share) for share in shares], np.int32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    return Partition(*map(jnp.asarray, (np.concatenate(shares).astype(np.int32), starts, sizes)))


def _split(indices: np.ndarray, shares: np.ndarray) -> Shares:
    """Splits indices in the proportions `shares` (they sum to 1), rounding cumulatively."""
    bounds = np.round(np.cumsum(shares)[:-1] * len(indices)).astype(int)
    return np.split(indices, bounds)


def iid(rng: np.random.Generator, labels: np.ndarray, clients: int) -> Shares:
    """Shuffled and cut into pieces whose sizes differ by at most one."""
    return np.array_split(rng.permutation(len(labels)), clients)


def dirichlet(rng: np.random.Generator, labels: np.ndarray, clients: int, alpha: float) -> Shares:
    """Each class is spread over clients in proportions drawn from Dirichlet(alpha, ..., alpha)."""
    parts = [
        _split(rng.permutation(np.flatnonzero(labels == label)), _proportions(rng, clients, alpha))
        for label in np.unique(labels)
    ]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _proportions(rng: np.random.Generator, clients: int, alpha: float) -> np.ndarray:
    """Dirichlet proportions that survive a tiny alpha, where every gamma draw underflows to 0."""
    shares = rng.dirichlet(np.full(clients, alpha))
    return shares if np.isfinite(shares).all() and shares.sum() > 0 else np.eye(clients)[
        rng.integers(clients)
    ]  # fmt: skip


def shards(
    rng: np.random.Generator, labels: np.ndarray, clients: int, classes_per_client: int
) -> Shares:
    """Each client gets examples of exactly `classes_per_client` classes.

    Client after client takes the classes least used so far, ties in random order, so every class
    has as many clients as any other, give or take one; it is then cut into equal parts, one for
    each of them (a class with fewer examples than clients leaves some of them without). With too
    few clients to cover the classes some examples belong to nobody.
    """
    names = np.unique(labels)
    slots = _assign_classes(rng, len(names), clients, classes_per_client)
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for position, name in enumerate(names):
        owners = np.flatnonzero((slots == position).any(axis=1))
        examples = rng.permutation(np.flatnonzero(labels == name))
        if len(owners):
            for owner, piece in zip(owners, np.array_split(examples, len(owners)), strict=True):
                shares[owner].append(piece)
    return [np.concatenate(pieces) for pieces in shares]


def _assign_classes(rng: np.random.Generator, classes: int, clients: int, each: int) -> np.ndarray:
    """Classes of every client, `[clients, each]`, distinct within a row, balanced over all."""
    used = np.zeros(classes, int)
    rows = []
    for _ in range(clients):
        # The least used classes first, ties in random order.
        row = np.lexsort((rng.random(classes), used))[:each]
        used[row] += 1
        rows.append(row)
    return np.array(rows)


def quantity(rng: np.random.Generator, labels: np.ndarray, clients: int, alpha: float) -> Shares:
    """Labels as in `iid`, sizes in proportions drawn from Dirichlet(alpha, ..., alpha)."""
    return _split(rng.permutation(len(labels)), _proportions(rng, clients, alpha))


def label_counts(partition: Partition, labels: Any, classes: int) -> np.ndarray:
    """How many examples of each class each client has, int `[C, classes]`.

    Args:
      partition: of the training split.
      labels: int `[N]`, of the training split.
      classes: how many.
    """
    sizes = np.asarray(partition.sizes)
    counts = np.zeros((len(sizes), classes), int)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    np.add.at(counts, (owners, np.asarray(labels)[np.asarray(partition.indices)]), 1)
    return counts


class Kind(NamedTuple):
    """A partition `(rng, labels, clients[, option]) -> shares` and its option's flag, if any."""

    split: Callable[..., Shares]
    option: str | None


PARTITIONS = {
    "iid": Kind(iid, None),
    "dirichlet": Kind(dirichlet, "dirichlet_alpha"),
    "shards": Kind(shards, "classes_per_client"),
    "quantity": Kind(quantity, "quantity_alpha"),
}


def split(kind: str, labels: np.ndarray, clients: int, seed: int, option: Any = None) -> Shares:
    """Index lists of all clients, each sorted.

    Args:
      kind: a key of `PARTITIONS`.
      labels: int `[N]`.
      clients: how many.
      seed: of the run; the same seed gives the same partition.
      option: alpha or classes per client, where the kind has one.

    Raises:
      EmptyClients: some clients would get no example.
    """
    rng = np.random.default_rng([seed, len(labels), clients])
    arguments = () if PARTITIONS[kind].option is None else (option,)
    shares = PARTITIONS[kind].split(rng, labels, clients, *arguments)
    empty = [n for n, share in enumerate(shares) if len(share) == 0]
    if empty:
        raise EmptyClients(f"{len(empty)} clients would be without examples: {_ranges(empty)}")
    return [np.sort(share) for share in shares]


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers with runs as ranges.

    >>> _ranges([1, 3, 4, 5, 9])
    '1, 3-5, 9'
    """
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
