"""Pruning of whole channels: they are absent, and arrays, arithmetic and messages get smaller."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.compression.message import choice_bits, position_bits
from jfedsl.keys import fold
from jfedsl.models.layers import Params
from jfedsl.pruning import ladder as ladders
from jfedsl.pruning import narrow, scores
from jfedsl.pruning.plan import Plan
from jfedsl.pruning.pruner import Kept, Masks, Pruner, PruningState, learnt
from jfedsl.pruning.ranks import ranks_in_groups


def channel_pruner(
    plan: Plan,
    rates: Sequence[float],
    ladder: Sequence[float],
    score: str = "magnitude",
    ramp_rounds: int = 0,
    period: int = 1,
) -> Pruner:
    """Keeps the highest-scored channels of every layer, as many as the rung next to a rate says.

    Masks are a list of bools `[size]`, one a layer; with GroupNorm every group keeps as many. They
    travel as one bit a channel or as the numbers of those that stay, whichever is less. A channel's
    score is the L2 norm of its weights' scores. Before the first aggregation taylor ranks by
    magnitude.

    Args:
      plan: of the client-side layers.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      ladder: fractions of the channels that stay at each rung, descending.
      score: one of `SCORES`.
      ramp_rounds: rounds over which the rates grow from 0.
      period: rounds between aggregations.

    Raises:
      ValueError: a rung leaves a layer or a normalisation group without channels.
    """
    sources = plan.sources
    counts = ladders.keep_counts(ladder, sources)
    groups, layouts, layout = ladders.schedule(rates, ladder, ramp_rounds, period)
    own_draws = score == "random"
    group_of = np.zeros(len(rates), np.int32)
    for number, members in enumerate(groups):
        group_of[members] = number

    def norms(params: Params) -> list[Array]:
        return [scores.channels(kernels) for kernels in _kernels(plan, params)]

    def rank(values: list[Array]) -> list[Array]:
        pairs = zip(values, sources, strict=True)
        return [ranks_in_groups(value, source.groups) for value, source in pairs]

    def state_of(values: list[Array], last: list[Array] | None) -> PruningState:
        return PruningState(last, None if own_draws else rank(values))

    def init(params: Params) -> PruningState:
        values = norms(params)
        unknown = [jnp.full(w.shape, scores.UNKNOWN) for w in values]
        return state_of(values, unknown if score == "taylor" else None)

    def update(
        state: PruningState, before: Params, after: Params, kept: Masks, rate: Array
    ) -> PruningState:
        sizes = norms(after)
        if score != "taylor":
            return state_of(sizes, None)
        assert state.scores is not None
        changes = norms(jax.tree.map(lambda b, a: a * (a - b), before, after))
        values = scores.taylor(state.scores, sizes, changes, kept, rate)
        return learnt(kept, rate, state_of(values, values), state)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        places = state.ranks
        if places is None:
            blank = [jnp.zeros(source.size) for source in sources]
            places = rank(scores.random(fold(key, round_, client), blank))
        row = jnp.asarray(layout)[jnp.minimum(round_, len(layout) - 1)]
        rung = jnp.asarray(layouts)[row, jnp.asarray(group_of)[client]]
        left = jnp.asarray(counts)[rung]
        return [
            place >= (source.size - left[i]) // source.groups
            for i, (place, source) in enumerate(zip(places, sources, strict=True))
        ]

    def kept(masks: Masks) -> Kept:
        return Kept(
            narrow.present(plan.shapes.params, plan.params, masks),
            narrow.present(plan.shapes.stats, plan.stats, masks),
        )

    return Pruner(
        init=init,
        update=update,
        masks=masks,
        kept=kept,
        cut_channel_mask=lambda masks: narrow.sent(plan, masks),
        prunable_masks=list,
        names=tuple(source.name for source in sources),
        mask_bits=_mask_bits,
        forwards=tuple(narrow.form(plan, row) for row in counts.tolist()),
        groups=groups,
        width_configs=layouts,
        config_of_round=layout,
        mask_group=None if own_draws else group_of,
    )


def _kernels(plan: Plan, params: Params) -> list[list[Array]]:
    """The kernels that make the channels of each source."""
    leaves = list(zip(jax.tree.leaves(params), plan.params, strict=True))
    return [
        [
            leaf
            for leaf, axes in leaves
            if leaf.ndim > 1 and any(a.axis == leaf.ndim - 1 and a.source == s for a in axes)
        ]
        for s in range(len(plan.sources))
    ]


def _mask_bits(masks: Masks) -> Array:
    """A bitmap, or the numbers of the channels that stay, for each layer; int32."""
    bits = [
        choice_bits(mask.size, jnp.sum(mask, dtype=jnp.int32), position_bits(mask.size))
        for mask in masks
    ]
    return jnp.sum(jnp.stack(bits))
