"""Pruning of single weights: they are set to 0, which simulates sparsity; no array gets smaller."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jfedsl.compression.message import straight_through
from jfedsl.keys import fold
from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model, Params, Stats
from jfedsl.pruning import ranking
from jfedsl.pruning.pruner import Kept, Masks, Pruner, PruningState, one_group
from jfedsl.pruning.ranking import Units
from jfedsl.pruning.ranks import ranks, removed_counts
from jfedsl.pruning.schedule import cubic_ramp
from jfedsl.pruning.scores import SCORES, Score, weight_norms

SCOPES = ("global", "layer")


def weight_pruner(
    model: Model,
    prunable: Any,
    sizes: dict[str, int],
    rates: Sequence[float],
    score: Score = SCORES["magnitude"],
    scope: str = "global",
    ramp_rounds: int = 0,
) -> Pruner:
    """Removes the fraction `rates[n]` of the lowest-scored weights on client n, to one weight.

    Masks are a tree of bools like the parameters; leaves that may not be pruned are all True. They
    are sent as one bit for each prunable weight.

    Args:
      model: the client-side layers.
      prunable: tree of Python bools like the parameters: which leaves may be pruned.
      sizes: number of weights of each prunable leaf by its name, in tree order.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      score: ranks the weights.
      scope: one of `SCOPES`.
      ramp_rounds: rounds over which the rates grow from 0.
    """
    distinct, inverse = np.unique(np.asarray(rates, np.float64), return_inverse=True)
    mask_group = inverse.astype(np.int32)
    ramp = cubic_ramp(distinct, ramp_rounds)
    counts = removed_counts(ramp, list(sizes.values()), scope)  # [ramp_rounds + 1, G, leaves]

    def pick(tree: Any) -> list[Array]:
        flags = jax.tree.leaves(prunable)
        return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]

    units = Units(pick, pick, weight_norms, lambda values: ranks(values, scope))

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        ranked = ranking.of_client(score, units, state, params, fold(key, round_, client))
        row = jnp.asarray(counts)[jnp.minimum(round_, ramp_rounds), jnp.asarray(mask_group)[client]]
        pruned = iter([rank >= row[i] for i, rank in enumerate(ranked)])
        return jax.tree.map(
            lambda leaf, flag: next(pruned) if flag else jnp.ones(leaf.shape, bool),
            params,
            prunable,
        )

    def forward(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        # The optimizer's update is masked, so the gradient of a pruned weight has no effect. It
        # passes straight through, which saves a second masking in the backward pass.
        pruned = jax.tree.map(straight_through, params, keep(params, masks))
        return layers.apply(layers.with_frozen(model, frozen), pruned, stats, x, train, dtype)

    return Pruner(
        init=partial(ranking.init, score, units),
        update=partial(ranking.update, score, units),
        masks=masks,
        kept=lambda masks: Kept(masks, None),
        cut_channel_mask=lambda masks: None,
        prunable_masks=pick,
        names=tuple(sizes),
        mask_bits=lambda masks: jnp.int32(sum(sizes.values())),
        forwards=(forward,),
        mask_group=mask_group if score.draw is None else None,
        **one_group(len(rates)),
    )


def prunable(params: Params, model_layers: int | None = None) -> Any:
    """Which leaves may be pruned: kernels and factors of adapters, but none of the last layer.

    Args:
      params: parameters of the first layers of a model.
      model_layers: how many layers the whole model has; None when `params` never reach its end.

    Returns:
      A tree like `params` with a Python bool at every leaf.
    """

    def one(path: Sequence[Any], leaf: Array) -> bool:
        last = model_layers is not None and path[0].idx == model_layers - 1
        name = getattr(path[-1], "key", None)
        return name in ("kernel", "lora_a", "lora_b") and leaf.ndim > 1 and not last

    return jax.tree_util.tree_map_with_path(one, params)


def keep(params: Params, masks: Masks) -> Params:
    """The pruned weights m * w."""
    return jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, masks)
