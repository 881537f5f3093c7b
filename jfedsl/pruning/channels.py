"""Pruning of whole channels: they are absent, so arrays, arithmetic and messages get smaller."""

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
    """Keeps the highest-scored channels of every layer: the rung of the ladder nearest to 1 - rate.

    Masks are a list of bool arrays `[channels]`, one for each layer with removable channels. With
    GroupNorm every normalization group keeps the same number. The masks of a layer are sent as a
    bitmap or as the indices of the kept channels, whichever is shorter.

    Args:
      plan: where the channels of the client-side layers lie.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      ladder: fractions of the channels that may stay, descending; each is called a rung.
      score: ranks the channels of a layer, or of a normalization group.
      ramp_rounds: rounds over which the rates grow from 0.
      period: rounds between aggregations.

    Raises:
      ValueError: a rung leaves a layer or a normalization group without channels.
    """
    sources = plan.sources
    counts = ladders.keep_counts(ladder, sources)
    groups, width_configs, config_of_round = ladders.schedule(rates, ladder, ramp_rounds, period)
    group_of_client = np.zeros(len(rates), np.int32)
    for number, members in enumerate(groups):
        group_of_client[members] = number

    def rank(values: list[Array]) -> list[Array]:
        pairs = zip(values, sources, strict=True)
        return [ranks_in_groups(value, source.groups) for value, source in pairs]

    units = Units(partial(_kernels, plan), list, channel_norms, rank)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> Masks:
        ranks = ranking.of_client(score, units, state, params, fold(key, round_, client))
        row = jnp.asarray(config_of_round)[jnp.minimum(round_, len(config_of_round) - 1)]
        rung = jnp.asarray(width_configs)[row, jnp.asarray(group_of_client)[client]]
        keep = jnp.asarray(counts)[rung]
        return [
            rank >= (source.size - keep[i]) // source.groups
            for i, (rank, source) in enumerate(zip(ranks, sources, strict=True))
        ]

    def kept(masks: Masks) -> Kept:
        return Kept(
            narrow.kept_entries(plan.shapes.params, plan.params, masks),
            narrow.kept_entries(plan.shapes.stats, plan.stats, masks),
        )

    return Pruner(
        init=partial(ranking.init, score, units),
        update=partial(ranking.update, score, units),
        masks=masks,
        kept=kept,
        cut_channel_mask=lambda masks: narrow.cut_channel_mask(plan, masks),
        prunable_masks=list,
        names=tuple(source.name for source in sources),
        mask_bits=_mask_bits,
        forwards=tuple(narrow.narrow_forward(plan, row) for row in counts.tolist()),
        groups=groups,
        width_configs=width_configs,
        config_of_round=config_of_round,
        mask_group=group_of_client if score.draw is None else None,
    )


def _kernels(plan: Plan, params: Params) -> list[list[Array]]:
    """For each source, the kernels whose last axis is its channels."""
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
    """Bits of the masks of one client as they are sent, summed over layers; int32."""
    bits = [
        choice_bits(mask.size, jnp.sum(mask, dtype=jnp.int32), position_bits(mask.size))
        for mask in masks
    ]
    return sum(bits, start=jnp.int32(0))
