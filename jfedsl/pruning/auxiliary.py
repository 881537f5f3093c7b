"""Layers that clients hold behind the pruned ones: a tail or an auxiliary head, never pruned."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models.layers import Frozen, Params, Stats
from jfedsl.pruning.pruner import ClientForward, Kept, Masks, Pruner, PruningState


def of_first_layers(forward: ClientForward, count: int) -> ClientForward:
    """The forward pass of the first `count` layers, given the variables of these and others."""

    def first(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        y, moved = forward(params[:count], stats[:count], masks, x, train, dtype, frozen=frozen)
        return y, moved + stats[count:]

    return first


def with_auxiliary(pruner: Pruner, count: int, params: Any, stats: Any) -> Pruner:
    """A pruner of the first `count` layers that clients hold; what follows them is always kept.

    Args:
      pruner: of these layers.
      count: L_c.
      params: shapes of the parameters of the layers that follow.
      stats: shapes of their normalisation statistics.
    """

    def everything(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), tree)

    def kept(masks: Masks) -> Kept:
        first = pruner.kept(masks)
        return Kept(
            None if first.params is None else tuple(first.params) + everything(params),
            None if first.stats is None else tuple(first.stats) + everything(stats),
        )

    def update(
        state: PruningState, before: Params, after: Params, kept: Masks, rate: Array
    ) -> PruningState:
        return pruner.update(state, before[:count], after[:count], kept, rate)

    return pruner._replace(
        init=lambda params: pruner.init(params[:count]),
        update=update,
        masks=lambda state, params, *rest: pruner.masks(state, params[:count], *rest),
        kept=kept,
        forwards=tuple(of_first_layers(forward, count) for forward in pruner.forwards),
    )
