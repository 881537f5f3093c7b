"""Pruning of single weights: they are zeroed, which simulates sparsity; nothing gets smaller."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jfedsl.compression.message import straight_through
from jfedsl.keys import fold
from jfedsl.models import layers
from jfedsl.models.layers import Model, Params, Stats
from jfedsl.pruning import scores
from jfedsl.pruning.pruner import Kept, Masks, Pruner, PruningState, learnt, one_group
from jfedsl.pruning.ranks import ranks, removed_counts
from jfedsl.pruning.schedule import cubic_ramp

SCOPES = ("global", "layer")


def weight_pruner(
    model: Model,
    prunable: Any,
    sizes: dict[str, int],
    rates: Sequence[float],
    score: str = "magnitude",
    scope: str = "global",
    ramp_rounds: int = 0,
) -> Pruner:
    """Removes the fraction `rates[n]` of the lowest-scored weights on client n, to one weight.

    Masks are a tree like the parameters; leaves that may not be pruned are True throughout. They
    travel as one bit a prunable weight. Before the first aggregation taylor ranks by magnitude.

    Args:
      model: the client-side layers.
      prunable: tree of Python bools like their parameters.
      sizes: weights of each prunable leaf by its name, in tree order.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      score: one of `SCORES`.
      scope: one of `SCOPES`.
      ramp_rounds: rounds over which the rates grow from 0.
    """
    distinct, inverse = np.unique(np.asarray(rates, np.float64), return_inverse=True)
    mask_group = inverse.astype(np.int32)
    ramp = cubic_ramp(distinct, ramp_rounds)
    counts = removed_counts(ramp, list(sizes.values()), scope)  # [ramp_rounds + 1, G, leaves]
    own_draws = score == "random"

    def pick(tree: Any) -> list[Array]:
        flags = jax.tree.leaves(prunable)
        return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]

    def rank(values: list[Array]) -> list[Array] | None:
        return None if own_draws else ranks(values, scope)

    def init(params: Params) -> PruningState:
        values = scores.magnitude(pick(params))
        unknown = [jnp.full(w.shape, scores.UNKNOWN) for w in values]
        return PruningState(unknown if score == "taylor" else None, rank(values))

    def update(
        state: PruningState, before: Params, after: Params, kept: Masks, rate: Array
    ) -> PruningState:
        sizes = scores.magnitude(pick(after))
        if score != "taylor":
            return PruningState(None, rank(sizes))
        assert state.scores is not None
        changes = [jnp.abs(a * (a - b)) for b, a in zip(pick(before), pick(after), strict=True)]
        values = scores.taylor(state.scores, sizes, changes, pick(kept), rate)
        return learnt(pick(kept), rate, PruningState(values, rank(values)), state)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        places = state.ranks
        if places is None:
            places = ranks(scores.random(fold(key, round_, client), pick(params)), scope)
        row = jnp.asarray(counts)[jnp.minimum(round_, ramp_rounds), jnp.asarray(mask_group)[client]]
        bits = iter([place >= row[i] for i, place in enumerate(places)])
        return jax.tree.map(
            lambda leaf, flag: next(bits) if flag else jnp.ones(leaf.shape, bool), params, prunable
        )

    def form(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike
    ) -> tuple[Array, Stats]:
        # No client steps on what it pruned: its gradients need not be masked here as well.
        pruned = jax.tree.map(straight_through, params, keep(params, masks))
        return layers.apply(model, pruned, stats, x, train, dtype)

    return Pruner(
        init=init,
        update=update,
        masks=masks,
        kept=lambda masks: Kept(masks, None),
        cut_channel_mask=lambda masks: None,
        prunable_masks=pick,
        names=tuple(sizes),
        mask_bits=lambda masks: jnp.int32(sum(sizes.values())),
        forwards=(form,),
        mask_group=None if own_draws else mask_group,
        **one_group(len(rates)),
    )


def keep(params: Params, masks: Masks) -> Params:
    """The pruned weights m * w."""
    return jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, masks)
