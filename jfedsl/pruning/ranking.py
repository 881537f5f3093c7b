"""The ranking of prunable weights or channels by a score: the state that a pruner keeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.models.layers import Params
from jfedsl.pruning.pruner import Masks, PruningState
from jfedsl.pruning.scores import Norms, Period, Score, Weights


class Units(NamedTuple):
    """What is pruned: single weights, or channels.

    Attributes:
      weights: `params -> ` the prunable weights.
      kept: `masks -> bools`, one array for each entry of the weights: which units are kept.
      norms: see `scores.Norms`.
      rank: `values -> ranks`, int32 of the same shapes, ascending by value.
    """

    weights: Callable[[Params], Weights]
    kept: Callable[[Masks], list[Array]]
    norms: Norms
    rank: Callable[[list[Array]], list[Array]]


def init(score: Score, units: Units, params: Params) -> PruningState:
    """The state before the first aggregation, from the initial parameters."""
    score_state, values = score.init(units.weights(params), units.norms)
    return PruningState(score_state, _shared(score, units, values))


def update(
    score: Score,
    units: Units,
    state: PruningState,
    before: Params,
    after: Params,
    kept: Masks,
    rate: Array,
) -> PruningState:
    """The state after an aggregation.

    Args:
      score: what ranks the units.
      units: what is pruned.
      state: as of the aggregation before.
      before: aggregated parameters at the start of the period.
      after: aggregated parameters at its end.
      kept: like masks, True for what any participant kept.
      rate: sum of the learning rates of the period's exchanges.
    """
    flags = units.kept(kept)
    period = Period(units.weights(before), units.weights(after), flags, rate)
    score_state, values = score.update(state.score_state, period, units.norms)
    new = PruningState(score_state, _shared(score, units, values))
    if score_state is None:
        return new
    # Of a period without steps, or in which every client failed, there is nothing to learn.
    learnt = sum((jnp.any(k) for k in flags), jnp.bool_(False)) & (rate > 0)
    return jax.tree.map(lambda a, b: jnp.where(learnt, a, b), new, state)


def of_client(
    score: Score, units: Units, state: PruningState, params: Params, key: Array
) -> list[Array]:
    """Ranks of one client: those that all share, or those of its own draw.

    Args:
      score: what ranks the units.
      units: what is pruned.
      state: as of the last aggregation.
      params: aggregated parameters.
      key: of this client and period.
    """
    if score.draw is None:
        assert state.ranks is not None
        return state.ranks
    return units.rank(score.draw(key, units.weights(params), units.norms))


def _shared(score: Score, units: Units, values: list[Array]) -> list[Array] | None:
    return units.rank(values) if score.draw is None else None
