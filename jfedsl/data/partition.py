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
    """Where clients' examples lie: those of client n at `starts[n]` to `starts[n] + sizes[n] - 1`.

    Attributes:
      starts: int32 `[C]`.
      sizes: int32 `[C]`.
    """

    starts: Array
    sizes: Array


def pack(
    shares: Shares, owners: np.ndarray | None = None, devices: int = 1
) -> tuple[np.ndarray, Partition]:
    """Lays the examples of each device's clients end to end, all devices having as much room.

    Args:
      shares: index lists `[C][n_c]`.
      owners: which device a client belongs to, int `[C]`; default the first.
      devices: how many.

    Returns:
      Which example lies where, int32 `[N]`, some example where there is room left; and the
      partition.
    """
    owners = np.zeros(len(shares), int) if owners is None else owners
    sizes = np.array([len(share) for share in shares])
    clients = np.argsort(owners, kind="stable")
    held = np.bincount(owners, sizes, minlength=devices).astype(int)
    room, before = held.max(), np.cumsum(held) - held
    starts = np.empty(len(shares), np.int32)
    starts[clients] = np.cumsum(sizes[clients]) - sizes[clients]
    starts += (np.arange(devices) * room - before)[owners].astype(np.int32)
    examples = np.concatenate([shares[n] for n in clients])
    order = np.full((devices, room), examples[0], np.int32)
    for device, (first, count) in enumerate(zip(before, held, strict=True)):
        order[device, :count] = examples[first : first + count]
    return order.ravel(), Partition(jnp.asarray(starts), jnp.asarray(sizes, jnp.int32))


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


def label_counts(shares: Shares, labels: np.ndarray, classes: int) -> np.ndarray:
    """How many examples of each class each client has, int `[C, classes]`.

    Args:
      shares: index lists `[C][n_c]`.
      labels: int `[N]`, of the training split.
      classes: how many.
    """
    owners = np.repeat(np.arange(len(shares)), [len(share) for share in shares])
    cells = owners * classes + labels[np.concatenate(shares)]
    return np.bincount(cells, minlength=len(shares) * classes).reshape(-1, classes)


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
