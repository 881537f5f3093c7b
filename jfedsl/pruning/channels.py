"""Pruning of whole channels: they are absent, and arrays, arithmetic and messages get smaller."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.compression.message import choice_bits, position_bits
from jfedsl.keys import fold
from jfedsl.models.layers import Params
from jfedsl.pruning import ladder as ladders
from jfedsl.pruning import narrow, ranking
from jfedsl.pruning.plan import Plan
from jfedsl.pruning.pruner import Kept, Masks, Pruner, PruningState
from jfedsl.pruning.ranking import Units
from jfedsl.pruning.ranks import ranks_in_groups
from jfedsl.pruning.scores import SCORES, Score, channel_norms


def channel_pruner(
    plan: Plan,
    rates: Sequence[float],
    ladder: Sequence[float],
    score: Score = SCORES["magnitude"],
    ramp_rounds: int = 0,
    period: int = 1,
) -> Pruner:
    """Keeps the highest-scored channels of every layer, as many as the rung next to a rate says.

    Masks are a list of bools `[size]`, one a layer; with GroupNorm every group keeps as many. They
    travel as one bit a channel or as the numbers of those that stay, whichever is less.

    Args:
      plan: of the client-side layers.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      ladder: fractions of the channels that stay at each rung, descending.
      score: what ranks the channels of a layer, or of a normalisation group.
      ramp_rounds: rounds over which the rates grow from 0.
      period: rounds between aggregations.

    Raises:
      ValueError: a rung leaves a layer or a normalisation group without channels.
    """
    sources = plan.sources
    counts = ladders.keep_counts(ladder, sources)
    groups, layouts, layout = ladders.schedule(rates, ladder, ramp_rounds, period)
    group_of = np.zeros(len(rates), np.int32)
    for number, members in enumerate(groups):
        group_of[members] = number

    def rank(values: list[Array]) -> list[Array]:
        pairs = zip(values, sources, strict=True)
        return [ranks_in_groups(value, source.groups) for value, source in pairs]

    units = Units(partial(_kernels, plan), list, channel_norms, rank)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        places = ranking.of_client(score, units, state, params, fold(key, round_, client))
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
        init=partial(ranking.init, score, units),
        update=partial(ranking.update, score, units),
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
        mask_group=group_of if score.draw is None else None,
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
