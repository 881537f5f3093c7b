"""How the training examples are spread over clients.

Every partition is a list of index lists, drawn with NumPy from the seed alone, so that it does not
depend on the model, the cut or the compression. Dirichlet after arXiv 1905.12022, section 5, where
sizes differ as much as mixes of classes do; shards after arXiv 1602.05629.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Shares = list[np.ndarray]


_TRIES = 200  # draws of a partition until every client has enough
_MOST_RANGES = 8  # of numbers in a line


class EmptyClients(ValueError):
    """A partition left clients without examples; the text names them."""


class BadShares(ValueError):
    """A user's own partition made something else than shares; the text says what."""


class SmallClients(ValueError):
    """Some client has fewer examples than asked for, however often it was drawn.

    Attributes:
      reached: the most that every client had in one of the draws.
      draws: how many there were.
    """

    def __init__(self, reached: int, draws: int) -> None:
        """After so many draws."""
        super().__init__(f"at most {reached} in {draws} draws")
        self.reached, self.draws = reached, draws


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


def natural(
    rng: np.random.Generator, labels: np.ndarray, clients: int, owners: np.ndarray
) -> Shares:
    """Each client has its own examples; `owners[N]` has as many distinct numbers as clients."""
    del rng, labels
    order = np.argsort(owners, kind="stable")
    sizes = np.unique(owners, return_counts=True)[1]
    assert len(sizes) == clients
    return np.split(order, np.cumsum(sizes)[:-1])


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
    """A partition `(rng, labels, clients[, option][, owners]) -> shares`.

    Attributes:
      split: the function; labels are those of the examples in use, and shares positions among them.
      option: the flag of its option, if it has one.
      owned: whether it is told who owns which example.
      redraws: whether sizes are random, so that `--min_examples` may draw again.
    """

    split: Callable[..., Shares]
    option: str | None = None
    owned: bool = False
    redraws: bool = False


PARTITIONS = {
    "iid": Kind(iid),
    "dirichlet": Kind(dirichlet, "dirichlet_alpha", redraws=True),
    "shards": Kind(shards, "classes_per_client"),
    "quantity": Kind(quantity, "quantity_alpha", redraws=True),
    "natural": Kind(natural, owned=True),
}


def split(
    kind: str,
    labels: np.ndarray,
    clients: int,
    seed: int,
    option: Any = None,
    owners: np.ndarray | None = None,
    least: int | None = None,
) -> Shares:
    """Index lists of all clients, each sorted.

    Args:
      kind: a key of `PARTITIONS`.
      labels: int `[N]`.
      clients: how many.
      seed: of the run; the same seed gives the same partition.
      option: alpha or classes per client, where the kind has one.
      owners: of the examples, int `[N]`, where the kind asks for them.
      least: examples that every client has at least; drawn again until then, a bounded number of
        times. None: drawn once.

    Raises:
      EmptyClients: some clients would get no example, and nobody asked for more.
      SmallClients: no draw gave every client so many.
      BadShares: the kind, a user's own, made something else than shares.
    """
    entry, reached = PARTITIONS[kind], 0
    arguments = [*([option] if entry.option else []), *([owners] if entry.owned else [])]
    tries = _TRIES if entry.redraws and least is not None else 1
    for number in range(tries):
        again = [number] if number else []
        rng = np.random.default_rng([seed, len(labels), clients, *again])
        shares = [np.asarray(share) for share in entry.split(rng, labels, clients, *arguments)]
        _check(shares, len(labels), clients)
        sizes = [len(share) for share in shares]
        if min(sizes) >= (least or 1):
            return [np.sort(share) for share in shares]
        reached = max(reached, min(sizes))
    if least is not None:
        raise SmallClients(reached, tries)
    empty = [n for n, size in enumerate(sizes) if size == 0]
    raise EmptyClients(f"{len(empty)} clients would be without examples: {ranges(empty)}")


def _check(shares: Shares, examples: int, clients: int) -> None:
    """Raises BadShares unless these are a list of positions for every client."""
    if len(shares) != clients:
        raise BadShares(f"{len(shares)} lists")
    for share in shares:
        if share.ndim != 1 or (share.size and share.dtype.kind not in "iu"):
            raise BadShares(f"{share.dtype} {list(share.shape)}")
        if share.size and not 0 <= share.min() <= share.max() < examples:
            raise BadShares(f"positions {share.min()} to {share.max()}")


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs as ranges, the first of them where they are many.

    >>> ranges([1, 3, 4, 5, 9])
    '1, 3-5, 9'
    >>> ranges(range(0, 40, 2))
    '0, 2, 4, 6, 8, 10, 12, 14, ...'
    """
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    shown = [str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs[:_MOST_RANGES]]
    return ", ".join([*shown, *(["..."] if len(runs) > _MOST_RANGES else [])])
