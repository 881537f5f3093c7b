"""Masks of clients: of the next period, and of the one that was trained last."""

import jax.numpy as jnp
from jax import Array

from jfedsl.engine.participants import last_round, period_start
from jfedsl.engine.state import RunSpec, State
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import Masks, PruningState


def masks_of(spec: RunSpec, key: Array, state: State, client: Array) -> Masks:
    """Masks of one client in the period of the next round, or that it would have were it drawn."""
    return _masks(spec, key, state, state.aggregator.pruning, state.round, client)


def trained_masks(spec: RunSpec, key: Array, state: State, client: Array) -> Masks:
    """Masks of one client in the period of the last round, or that it would have had."""
    trained = state.aggregator.trained
    return _masks(spec, key, state, trained, last_round(state), client)


def _masks(
    spec: RunSpec, key: Array, state: State, pruning: PruningState, round_: Array, client: Array
) -> Masks:
    start = period_start(spec, round_)
    own = fold(key, Purpose.PRUNING)
    return spec.pruner.masks(pruning, state.aggregator.params, own, start, client)


def overlap(spec: RunSpec, before: Masks, after: Masks) -> Array:
    """How much of the smaller of two masks of a client is in the other: 1 if nothing moved."""
    chosen = spec.pruner.prunable_masks
    pairs = list(zip(chosen(before), chosen(after), strict=True))

    def count(arrays: list[Array]) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(x, dtype=jnp.float32) for x in arrays]))

    if not pairs:
        return jnp.ones(())
    one, other = (count([pair[i] for pair in pairs]) for i in (0, 1))
    return count([b & a for b, a in pairs]) / jnp.minimum(one, other)
