"""How the training examples are spread over clients.

A partition is a list of index lists, one a client. It is drawn with NumPy from the seed alone, so
that it does not depend on the model, the cut or the compression. `dirichlet` follows arXiv
1905.12022, section 5, where clients differ in size as well as in the mix of classes; `shards`
follows arXiv 1602.05629.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Shares = list[np.ndarray]  # positions of the examples of each client, `[C][n_c]`

_MOST_DRAWS = 200  # of a partition, until every client has enough examples
_MOST_RANGES = 8  # of client numbers, in an error


class EmptyClients(ValueError):
    """A partition left clients without examples; the text names them."""


class BadShares(ValueError):
    """A user-defined partition did not return index lists; the text says what it returned."""


class SmallClients(ValueError):
    """In every draw some client has fewer examples than required.

    Attributes:
      reached: the number of examples of the smallest client, in the draw where it is greatest.
      draws: number of draws.
    """

    def __init__(self, reached: int, draws: int) -> None:
        """The error after `draws` draws."""
        super().__init__(f"at most {reached} in {draws} draws")
        self.reached, self.draws = reached, draws


class Partition(NamedTuple):
    """Where the examples of clients lie in the training data, each client's in one range.

    Attributes:
      starts: position of each client's first example, int32 `[C]`.
      sizes: number of each client's examples, int32 `[C]`.
    """

    starts: Array
    sizes: Array


def pack(
    shares: Shares, owners: np.ndarray | None = None, devices: int = 1
) -> tuple[np.ndarray, Partition]:
    """Orders the examples by device and by client, so that each device holds its clients' examples.

    All devices have as many rows as the one with the most examples; the others are filled up with
    copies of an example, which no client draws.

    >>> order, partition = pack([np.array([4, 2]), np.array([7])])
    >>> order.tolist(), partition.starts.tolist(), partition.sizes.tolist()
    ([4, 2, 7], [0, 2], [2, 1])

    Args:
      shares: index lists `[C][n_c]`.
      owners: number of the device of each client, int `[C]`; default all on the first.
      devices: number of devices.

    Returns:
      The example at each position, int32 `[devices * rows]`; and the partition.
    """
    owners = np.zeros(len(shares), int) if owners is None else owners
    sizes = np.array([len(share) for share in shares])
    clients = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, sizes, minlength=devices).astype(int)
    rows, first_of_device = counts.max(), np.cumsum(counts) - counts
    starts = np.empty(len(shares), np.int32)
    starts[clients] = np.cumsum(sizes[clients]) - sizes[clients]
    # So far examples of all devices lie end to end; now each device begins at a multiple of rows.
    starts += (np.arange(devices) * rows - first_of_device)[owners].astype(np.int32)
    examples = np.concatenate([shares[n] for n in clients])
    order = np.full((devices, rows), examples[0], np.int32)
    for device, (first, count) in enumerate(zip(first_of_device, counts, strict=True)):
        order[device, :count] = examples[first : first + count]
    return order.ravel(), Partition(jnp.asarray(starts), jnp.asarray(sizes, jnp.int32))


def _split(indices: np.ndarray, proportions: np.ndarray) -> Shares:
    """Splits indices in proportions that sum to 1; cumulative sums are rounded."""
    bounds = np.round(np.cumsum(proportions)[:-1] * len(indices)).astype(int)
    return np.split(indices, bounds)


def iid(rng: np.random.Generator, labels: np.ndarray, clients: int) -> Shares:
    """Examples in random order, cut into shares whose sizes differ by at most one."""
    return np.array_split(rng.permutation(len(labels)), clients)


def dirichlet(rng: np.random.Generator, labels: np.ndarray, clients: int, alpha: float) -> Shares:
    """Each class is spread over clients in proportions drawn from Dirichlet(alpha, ..., alpha)."""
    classes = [
        _split(rng.permutation(np.flatnonzero(labels == label)), _proportions(rng, clients, alpha))
        for label in np.unique(labels)
    ]
    return [np.concatenate(parts) for parts in zip(*classes, strict=True)]


def _proportions(rng: np.random.Generator, clients: int, alpha: float) -> np.ndarray:
    """Proportions `[clients]` drawn from Dirichlet(alpha, ..., alpha)."""
    proportions = rng.dirichlet(np.full(clients, alpha))
    if np.isfinite(proportions).all() and proportions.sum() > 0:
        return proportions
    # With a tiny alpha every gamma draw underflows to 0. In the limit one client has everything.
    return np.eye(clients)[rng.integers(clients)]


def shards(
    rng: np.random.Generator, labels: np.ndarray, clients: int, classes_per_client: int
) -> Shares:
    """Each client gets examples of exactly `classes_per_client` classes.

    One client after another takes the classes that the fewest clients have so far, ties in random
    order, so that numbers of clients differ by at most one between classes. Each class is then cut
    into equal parts for its clients; with fewer examples than clients, some clients get none. With
    too few clients to cover all classes, the examples of the other classes are left out.
    """
    names = np.unique(labels)
    assigned = _assign_classes(rng, len(names), clients, classes_per_client)
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for number, name in enumerate(names):
        owners = np.flatnonzero((assigned == number).any(axis=1))
        examples = rng.permutation(np.flatnonzero(labels == name))
        if len(owners):
            for owner, part in zip(owners, np.array_split(examples, len(owners)), strict=True):
                shares[owner].append(part)
    return [np.concatenate(parts) for parts in shares]


def _assign_classes(
    rng: np.random.Generator, classes: int, clients: int, classes_per_client: int
) -> np.ndarray:
    """Distinct classes of every client, `[clients, classes_per_client]`, balanced over clients."""
    clients_with = np.zeros(classes, int)
    rows = []
    for _ in range(clients):
        # The classes with the fewest clients first, ties in random order.
        row = np.lexsort((rng.random(classes), clients_with))[:classes_per_client]
        clients_with[row] += 1
        rows.append(row)
    return np.array(rows)


def quantity(rng: np.random.Generator, labels: np.ndarray, clients: int, alpha: float) -> Shares:
    """Examples in random order; sizes of shares are drawn from Dirichlet(alpha, ..., alpha)."""
    return _split(rng.permutation(len(labels)), _proportions(rng, clients, alpha))


def natural(
    rng: np.random.Generator, labels: np.ndarray, clients: int, owners: np.ndarray
) -> Shares:
    """Each client has the examples of one number in `owners[N]`, of which there are `clients`."""
    del rng, labels
    order = np.argsort(owners, kind="stable")
    sizes = np.unique(owners, return_counts=True)[1]
    assert len(sizes) == clients
    return np.split(order, np.cumsum(sizes)[:-1])


def label_counts(shares: Shares, labels: np.ndarray, classes: int) -> np.ndarray:
    """Number of examples of each class on each client, int `[C, classes]`.

    Args:
      shares: index lists `[C][n_c]`.
      labels: of the training split, int `[N]`.
      classes: number of classes.
    """
    owners = np.repeat(np.arange(len(shares)), [len(share) for share in shares])
    cells = owners * classes + labels[np.concatenate(shares)]
    return np.bincount(cells, minlength=len(shares) * classes).reshape(-1, classes)


class Kind(NamedTuple):
    """A kind of partition.

    Attributes:
      split: `(rng, labels, clients[, option][, owners]) -> shares`, with `labels[N]` those of the
        examples in use, and shares lists of positions in `labels`.
      option: name of the flag whose value is passed as `option`, if there is one.
      owned: whether `owners[N]`, the client of each example, is passed.
      redraws: whether sizes are random, so that `--min_examples` may draw again.
      by_class: whether it spreads classes, so that labels must be such.
    """

    split: Callable[..., Shares]
    option: str | None = None
    owned: bool = False
    redraws: bool = False
    by_class: bool = False


PARTITIONS = {
    "iid": Kind(iid),
    "dirichlet": Kind(dirichlet, "dirichlet_alpha", redraws=True, by_class=True),
    "shards": Kind(shards, "classes_per_client", by_class=True),
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
      labels: of the examples in use, int `[N]`.
      clients: number of clients.
      seed: seed of the run; the same seed gives the same partition.
      option: value of the kind's option, such as alpha or classes per client.
      owners: client of each example, int `[N]`, for kinds that take it.
      least: examples that every client must have. A partition with random sizes is drawn until
        they do, a bounded number of times. None draws once.

    Raises:
      EmptyClients: `least` is None, and some clients would have no examples.
      SmallClients: no draw gave every client `least` examples.
      BadShares: a user-defined kind did not return index lists.
    """
    entry, reached = PARTITIONS[kind], 0
    arguments = [*([option] if entry.option else []), *([owners] if entry.owned else [])]
    draws = _MOST_DRAWS if entry.redraws and least is not None else 1
    for number in range(draws):
        # The first draw is the one without `least`.
        redraw = [number] if number else []
        rng = np.random.default_rng([seed, len(labels), clients, *redraw])
        shares = [np.asarray(share) for share in entry.split(rng, labels, clients, *arguments)]
        _check(shares, len(labels), clients)
        sizes = [len(share) for share in shares]
        if min(sizes) >= (least or 1):
            return [np.sort(share) for share in shares]
        reached = max(reached, min(sizes))
    if least is not None:
        raise SmallClients(reached, draws)
    empty = [n for n, size in enumerate(sizes) if size == 0]
    raise EmptyClients(f"{len(empty)} clients would be without examples: {ranges(empty)}")


def _check(shares: Shares, examples: int, clients: int) -> None:
    """Raises BadShares unless there is an array of positions for every client."""
    if len(shares) != clients:
        raise BadShares(f"{len(shares)} lists")
    for share in shares:
        if share.ndim != 1 or (share.size and share.dtype.kind not in "iu"):
            raise BadShares(f"{share.dtype} {list(share.shape)}")
        if share.size and not 0 <= share.min() <= share.max() < examples:
            raise BadShares(f"positions {share.min()} to {share.max()}")


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text, with runs as ranges; only the first ranges if there are many.

    >>> ranges([1, 3, 4, 5, 9])
    '1, 3-5, 9'
    >>> ranges(range(0, 40, 2))
    '0, 2, 4, 6, 8, 10, 12, 14, ...'
    """
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:_MOST_RANGES]]
    return ", ".join([*texts, *(["..."] if len(runs) > _MOST_RANGES else [])])
