"""Adapters of different ranks: a client has the first r columns and rows of the common factors."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model, Params, Stats
from jfedsl.pruning.pruner import ClientForward, Kept, Masks, Pruner, PruningState

# The axis of an adapter's factor that has the rank's size.
RANK_AXES = {"lora_a": 1, "lora_b": 0}
NAME = "adapters"  # of the column with the fraction of the largest rank that clients have


def rank_pruner(
    models: Sequence[Model], ranks: Sequence[int], of_client: np.ndarray, shapes: Params
) -> Pruner:
    """Gives every client the factors of its rank; the products of all of them have one scale.

    Masks are a list of one bool array, `[R]` for the largest rank R. Clients know their ranks, so
    that nothing is sent for them.

    Args:
      models: the client-side layers with adapters of each rank.
      ranks: these ranks, ascending; the last one is R.
      of_client: rank of each client, int `[C]`.
      shapes: parameters of the client-side layers with rank R, arrays or shapes.
    """
    group = np.searchsorted(ranks, of_client).astype(np.int32)
    stateless = PruningState(None, None)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        return [jnp.arange(ranks[-1]) < jnp.asarray(of_client)[client]]

    def kept(masks: Masks) -> Kept:
        return Kept(_on_factors(_kept_entries, shapes, masks[0]), None)

    return Pruner(
        init=lambda params: stateless,
        update=lambda state, before, after, kept, rate: stateless,
        masks=masks,
        kept=kept,
        cut_channel_mask=lambda masks: None,
        prunable_masks=list,
        names=(NAME,),
        mask_bits=lambda masks: jnp.int32(0),
        forwards=tuple(_forward(*pair) for pair in zip(models, ranks, strict=True)),
        groups=tuple(np.flatnonzero(group == n) for n in range(len(ranks))),
        width_configs=(tuple(range(len(ranks))),),
        config_of_round=np.zeros(1, np.int32),
        mask_group=group,
    )


def _forward(model: Model, rank: int) -> ClientForward:
    """The layers with adapters of a rank, given the factors of the largest one."""

    def forward(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        params, frozen = (_on_factors(_first, tree, rank) for tree in (params, frozen))
        return layers.apply(layers.with_frozen(model, frozen), params, stats, x, train, dtype)

    return forward


def _on_factors(function: Any, tree: Any, argument: Any, name: str = "") -> Any:
    """A function of `(name, leaf, argument)` applied to every leaf of a tree."""
    if isinstance(tree, Mapping):
        return {key: _on_factors(function, value, argument, key) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_on_factors(function, value, argument) for value in tree)
    return function(name, tree, argument)


def _first(name: str, leaf: Array, rank: int) -> Array:
    if name not in RANK_AXES:
        return leaf
    return leaf[:, :rank] if RANK_AXES[name] else leaf[:rank]


def _kept_entries(name: str, leaf: Any, mask: Array) -> Array:
    """Which entries of a leaf belong to the ranks of a mask `[R]`; all of another leaf."""
    if name not in RANK_AXES:
        return jnp.ones(leaf.shape, bool)
    return jnp.broadcast_to(mask[None, :] if RANK_AXES[name] else mask[:, None], leaf.shape)
