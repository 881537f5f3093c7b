"""The interface of pruning: a bundle of pure functions of the aggregated client-side model."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model, Params, Stats

Masks = Any


class ClientForward(Protocol):
    """How a client computes its layers."""

    def __call__(
        self, params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        """The activation at the cut of inputs `x[B, ...]`, and the new statistics.

        `frozen` are the frozen variables of these layers, `()` where none has any.
        """


class PruningState(struct.PyTreeNode):
    """What the aggregator remembers between aggregations.

    Attributes:
      score_state: tree of arrays; None for a score that remembers nothing.
      ranks: int32, one array for each prunable leaf or layer, shared by all clients; None where
        every client ranks by its own draw.
    """

    score_state: Any
    ranks: list[Array] | None


class Kept(NamedTuple):
    """What a client keeps of the client-side model: trees of bools like it; None: everything."""

    params: Any
    stats: Any


class Pruner(NamedTuple):
    """Masks of the client-side model, new at every aggregation, and how to compute with them.

    Clients of one group compute with the same forward in a round; it may change between rounds.

    Attributes:
      init: `params -> PruningState`.
      update: `(state, params before, params after, kept, rate) -> PruningState`: `kept` is like
        masks, True for what any participant kept; `rate` is the sum of the learning rates of the
        period's exchanges.
      masks: `(state, params, key, round, client) -> masks` of a client in the period that starts
        with this round: bools, True for what it keeps.
      kept: `masks -> Kept`.
      cut_channel_mask: `masks -> bool [channels]`, which channels of the activation at the cut (its
        last axis) exist; None: all.
      prunable_masks: `masks -> ` the masks of the leaves or layers that are pruned, a list of bool
        arrays in the order of `names`.
      names: of the leaves or layers that are pruned.
      mask_bits: `masks -> ` bits of the masks as they are sent with the model, int32.
      forwards: the ways to compute the client-side layers, one for each width.
      groups: ids of the clients of each group, ascending.
      width_configs: indices of `forwards`, one column for each group, one row for each combination
        that occurs in the run.
      config_of_round: int32 `[T]`; the period that starts with round r uses the row
        `config_of_round[min(r, T - 1)]` of `width_configs`.
      mask_group: int32 `[C]`: clients with the same number share their masks; None when no two do.
      held: `masks -> bool [L_c]`, which of the client-side layers the client holds; None: all.
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
    held: Callable[[Masks], Array | None] = lambda masks: None


def dense_forward(model: Model) -> ClientForward:
    """The client-side layers at full width; the masks are ignored."""

    def forward(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        del masks
        return layers.apply(layers.with_frozen(model, frozen), params, stats, x, train, dtype)

    return forward


def none(model: Model, clients: int) -> Pruner:
    """The pruner that removes nothing.

    Args:
      model: the client-side layers.
      clients: C.
    """
    stateless = PruningState(None, None)
    return Pruner(
        init=lambda params: stateless,
        update=lambda state, before, after, kept, rate: stateless,
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
    """The fields of a pruner with one forward, which all clients use throughout the run."""
    return {
        "groups": (np.arange(clients),),
        "width_configs": ((0,),),
        "config_of_round": np.zeros(1, np.int32),
    }
