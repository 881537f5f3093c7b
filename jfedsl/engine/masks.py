"""Masks of clients: of the next period, and of the one that was trained last."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.engine.participants import last_round, period_start
from jfedsl.engine.personal import shared_part
from jfedsl.engine.state import Client, RunSpec, State
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import Masks, PruningState
from jfedsl.pruning.weights import prunable


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
    pruning_key = fold(key, Purpose.PRUNING)
    return spec.pruner.masks(pruning, state.aggregator.params, pruning_key, start, client)


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


def pruned_shares(spec: RunSpec, clients: Client) -> tuple[Array, Array]:
    """How much of clients `[P, ...]` is pruned.

    Returns:
      What each client lacks of all weights that can be pruned, personal ones left out, `[P]`, and
      what it has of each of the pruner's layers, `[P, names]`.
    """
    pruner = spec.pruner
    if not pruner.names:
        count = spec.slots.num_slots
        return jnp.zeros(count), jnp.zeros((count, 0))

    def one(client: Client) -> tuple[Array, Array]:
        params = shared_part(spec, client.params[: spec.cut])
        flags = jax.tree.leaves(prunable(params, len(spec.model)))
        kept = jax.tree.leaves(shared_part(spec, pruner.kept(client.masks).params[: spec.cut]))
        held = _held_by(spec, params, client.masks)
        weights = [(k, h) for k, flag, h in zip(kept, flags, held, strict=True) if flag]
        lacking = [h * jnp.sum(~k, dtype=jnp.float32) for k, h in weights]
        every = sum(h * k.size for k, h in weights)
        shares = [jnp.mean(m, dtype=jnp.float32) for m in pruner.prunable_masks(client.masks)]
        if not weights:  # adapters of fewer ranks, all of them personal
            return jnp.zeros(()), jnp.stack(shares)
        return jnp.sum(jnp.stack(lacking)) / jnp.maximum(1.0, every), jnp.stack(shares)

    return jax.vmap(one)(clients)


def _held_by(spec: RunSpec, params: Any, masks: Masks) -> list[Array | float]:
    """Of every leaf of some first layers' parameters, 1 if the client holds it, else 0."""
    held = spec.pruner.held(masks)
    flags = [1.0] * spec.cut if held is None else list(held.astype(jnp.float32))
    pairs = zip(flags, params, strict=True)
    return [flag for flag, layer in pairs for _ in jax.tree.leaves(layer)]
