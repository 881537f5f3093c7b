"""What pruning is: a bundle of pure functions over the aggregated model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Model, Params, Stats

Masks = Any

# (params, stats, masks, x[B, ...], train, dtype) -> (activation at the cut, stats), as layers.apply
ClientForward = Callable[[Params, Stats, Masks, Array, bool, DTypeLike], tuple[Array, Stats]]


class PruningState(struct.PyTreeNode):
    """What the aggregator remembers between aggregations.

    Attributes:
      scores: the state of the score, a tree of arrays; None for a score that remembers nothing.
      ranks: int32, one array for each prunable leaf or layer, shared by all clients; None where
        every client ranks by its own draw.
    """

    scores: Any
    ranks: list[Array] | None


class Kept(NamedTuple):
    """What a client has of the client-side model: bool trees like it, or None for everything."""

    params: Any
    stats: Any


class Pruner(NamedTuple):
    """Masks of the client-side model, new at every aggregation, and how to compute with them.

    Clients of one group compute in the same form, which may change with the round only.

    Attributes:
      init: `params -> PruningState`.
      update: `(state, params before, params after, kept, rate) -> PruningState`: `kept` is like
        masks, True for what any participant kept; `rate` is the sum of the learning rates of the
        period's exchanges.
      masks: `(state, params, key, round, client) -> masks` of a client in the period that starts
        with this round: bools, True for what it keeps.
      kept: `masks -> Kept`.
      cut_channel_mask: `masks -> bool`, which entries of the last axis of the activation at the cut
        exist; None: all.
      prunable_masks: `masks -> bools` of all that could have been removed, one array for each of
        `names`.
      names: of the leaves or layers that are pruned.
      mask_bits: `masks -> bits` of the masks as they go down with the model.
      forwards: ways to compute the client-side layers.
      groups: ids of the clients of each group, ascending.
      width_configs: indices of `forwards`, one row for each combination that occurs, one column a
        group.
      config_of_round: the row of `width_configs` in the period that starts with round r is
        `config_of_round[min(r, len(config_of_round) - 1)]`.
      mask_group: int32 `[C]`: clients of the same number share their masks; None when no two do.
    """

    init: Callable[[Params], PruningState]
    update: Callable[[PruningState, Params, Params, Masks, Array], PruningState]
    masks: Callable[[PruningState, Params, Array, Array, Array], Masks]
    kept: Callable[[Masks], Kept]
    cut_channel_mask: Callable[[Masks], Array | None]
    prunable_masks: Callable[[Masks], list[Array]]
    names: tuple[str, ...]
    mask_bits: Callable[[Masks], Array]
    forwards: tuple[ClientForward, ...]
    groups: tuple[np.ndarray, ...]
    width_configs: tuple[tuple[int, ...], ...]
    config_of_round: np.ndarray
    mask_group: np.ndarray | None


def dense_forward(model: Model) -> ClientForward:
    """The client-side layers as they are, whatever the masks."""

    def form(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike
    ) -> tuple[Array, Stats]:
        del masks
        return layers.apply(model, params, stats, x, train, dtype)

    return form


def none(model: Model, clients: int) -> Pruner:
    """Keeps everything.

    Args:
      model: the client-side layers.
      clients: C.
    """
    nothing = PruningState(None, None)
    return Pruner(
        init=lambda params: nothing,
        update=lambda state, before, after, kept, rate: nothing,
        masks=lambda state, params, key, round_, client: None,
        kept=lambda masks: Kept(None, None),
        cut_channel_mask=lambda masks: None,
        prunable_masks=lambda masks: [],
        names=(),
        mask_bits=lambda masks: jnp.int32(0),
        forwards=(dense_forward(model),),
        mask_group=np.zeros(clients, np.int32),
        **one_group(clients),
    )


def one_group(clients: int) -> dict[str, Any]:
    """The fields of a pruner under which all clients compute in the same form throughout."""
    return {
        "groups": (np.arange(clients),),
        "width_configs": ((0,),),
        "config_of_round": np.zeros(1, np.int32),
    }
