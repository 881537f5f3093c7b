"""Personal layers: parts of clients' models that are never sent nor averaged (arXiv 1912.00818).

A client trains its personal layers on its own data alone. They are with its memory while it does
not take part. The aggregator's model has them as they were drawn, as does a client that has never
taken part.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jfedsl.engine.adapter_averaging import NAMES

if TYPE_CHECKING:
    from jfedsl.engine.state import Client, RunSpec


class Personal(NamedTuple):
    """What is personal of the layers that a client holds: whole layers, or adapters of all layers.

    Attributes:
      layers: positions among these layers.
      adapters: whether the factors of low-rank adapters are, of all layers.
    """

    layers: Collection[int] = frozenset()
    adapters: bool = False


def shared_part(spec: "RunSpec", held: Any) -> Any:
    """A tree by layer without what is personal: `()` for a layer, None for a factor of an adapter.

    Args:
      spec: functions and static numbers of the run.
      held: a tree for the layers that a client holds, such as parameters, statistics, or what is
        kept of them, of one client or many; None stays None.
    """
    personal = spec.personal
    if personal is None or held is None:
        return held
    if personal.adapters:
        return _factors(held, personal=False)
    return tuple(() if n in personal.layers else layer for n, layer in enumerate(held))


def personal_part(spec: "RunSpec", held: Any) -> Any:
    """What `shared_part` leaves out, likewise; None if nothing is personal in the run."""
    personal = spec.personal
    if personal is None:
        return None
    if personal.adapters:
        return _factors(held, personal=True)
    return tuple(layer if n in personal.layers else () for n, layer in enumerate(held))


def with_shared(spec: "RunSpec", held: Any, shared: Any) -> Any:
    """A tree with another shared part.

    Args:
      spec: functions and static numbers of the run.
      held: the tree, or only what is personal of it.
      shared: of such a tree, as `shared_part` makes it.
    """
    personal = spec.personal
    if personal is None:
        return shared
    if personal.adapters:
        is_none = lambda x: x is None  # noqa: E731
        return jax.tree.map(lambda s, x: x if s is None else s, shared, held, is_leaf=is_none)
    pairs = zip(held, shared, strict=True)
    return tuple(x if n in personal.layers else s for n, (x, s) in enumerate(pairs))


def received_by(spec: "RunSpec", aggregated: Any, clients: "Client") -> Any:
    """The shared parameters as they arrived at the start of the period, of one client or many.

    Args:
      spec: functions and static numbers of the run.
      aggregated: parameters of the aggregator, with a leading axis for many clients.
      clients: of whom `received` is None where what arrives is the aggregator's model itself.
    """
    return shared_part(spec, aggregated) if clients.received is None else clients.received


def local_stats(spec: "RunSpec", stats: Any) -> Any:
    """The normalisation statistics that stay with clients; None for none."""
    return stats if spec.statistics == "local" else personal_part(spec, stats)


def with_local_stats(spec: "RunSpec", local: Any, stats: Any) -> Any:
    """Statistics with those that stay with clients, as `local_stats` makes them, in their place."""
    if spec.statistics == "local":
        return local
    return with_shared(spec, local, shared_part(spec, stats))


def models_differ(spec: "RunSpec") -> bool:
    """Whether clients' models differ by more than their masks, also after an average."""
    return spec.statistics == "local" or spec.personal is not None


def _factors(tree: Any, personal: bool) -> Any:
    """A tree with None in place of factors of adapters or, the other way round, of all else."""

    def one(path: Any, leaf: Any) -> Any:
        is_factor = getattr(path[-1], "key", None) in NAMES
        return leaf if is_factor == personal else None

    return jax.tree_util.tree_map_with_path(one, tree)
