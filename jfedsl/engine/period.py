"""Start and end of a period: participants receive model and masks, and send their models back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.message import FLOAT_BITS
from jfedsl.data.partition import Partition
from jfedsl.engine.adapter_averaging import (
    drawn_anew,
)
from jfedsl.engine.averaging import merge
from jfedsl.engine.client_memory import swap_participants
from jfedsl.engine.masks import masks_of, overlap
from jfedsl.engine.model_messages import download, upload
from jfedsl.engine.packed_average import merge_packed
from jfedsl.engine.participants import period_start
from jfedsl.engine.personal import received_by, shared_part, with_shared
from jfedsl.engine.server_copy import server_copy, with_average
from jfedsl.engine.state import Aggregator, Client, RunSpec, State, copies, present_weights, weights
from jfedsl.keys import Purpose, fold
from jfedsl.sharding.slots import where_rows

Draw = Callable[[RunSpec, Array, State], State]
# Arguments and results of `start_period`.
StartPeriod = Callable[..., tuple[State, Array]]
# Arguments and results of `end_period`.
EndPeriod = Callable[[RunSpec, Array, Partition, State, Array | None], tuple[State, Array, Array]]


def draw_period(spec: RunSpec, key: Array, state: State) -> State:
    """Draws the participants of a period; none of them holds its model yet."""
    state = swap_participants(spec, key, state)
    return state.replace(has_current_model=jnp.zeros_like(state.has_current_model))


def open_period(spec: RunSpec, key: Array, state: State, draw: Draw = draw_period) -> State:
    """Draws the participants; the masks they train with are those of the last aggregation."""
    state = draw(spec, key, state)
    ranked = state.aggregator.pruning.replace(score_state=None)
    return state.replace(aggregator=state.aggregator.replace(trained=ranked))


def start_period(
    spec: RunSpec, key: Array, state: State, draw: Draw = draw_period
) -> tuple[State, Array]:
    """Draws the participants and sends them the aggregated model and their masks.

    Returns:
      The state and the bytes sent to each participant, int32 `[P]`.
    """
    return deliver(spec, key, open_period(spec, key, state, draw), None)


def deliver(
    spec: RunSpec, key: Array, state: State, reachable: Array | None
) -> tuple[State, Array]:
    """Sends the aggregated model and masks to the participants that do not hold them yet.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      state: at the start of a round.
      reachable: bool `[K]`, which receive what is sent; None: all.

    Returns:
      The state and the bytes sent to each participant, in vain or not, int32 `[P]`.
    """
    waiting, slots = ~state.has_current_model, spec.slots
    model = _receive(spec, key, state)
    clients, down = jax.vmap(partial(download, spec, key, state.round))(model)
    if reachable is None:
        reachable = jnp.ones_like(waiting)
    else:
        waits, reached = slots.to_slots((waiting, waiting & reachable))
        down, before = jnp.where(waits, down, 0), state.clients
        if not spec.full_participation:
            # What is in a slot until its client is reached would be another client's.
            before = where_rows(waits, model, before)
        clients = where_rows(reached, clients, before)
    return state.replace(
        clients=clients, has_current_model=state.has_current_model | reachable
    ), down


def end_period(
    spec: RunSpec, key: Array, partition: Partition, state: State, reachable: Array | None = None
) -> tuple[State, Array, Array]:
    """Participants upload, the aggregator averages and recomputes the masks.

    A participant that cannot be reached is not in the mean and keeps its model.

    Returns:
      The state, with the participants holding the new model under the masks they trained with (it
      is tested so, and counted as sent when the next period starts, with new masks); the bytes each
      one sent, in vain or not, int32 `[P]`; and the overlap of its masks with its next ones,
      float32 `[P]`.
    """
    before, clients, slots = state.aggregator, state.clients, spec.slots
    trained = state.has_current_model
    sent, up = jax.vmap(partial(upload, spec, key, state))(clients)
    of_all, there = (
        weights(spec, partition, state.participants),
        jnp.ones_like(state.has_current_model),
    )
    share = of_all
    masks, at = sent.masks, slots.to_slots
    if reachable is not None:
        there = state.has_current_model & reachable
        sent, up = (
            where_rows(at(there), sent, clients),
            jnp.where(at(state.has_current_model), up, 0),
        )
        share = present_weights(share, there)
        masks = where_rows(at(there), masks, jax.tree.map(jnp.zeros_like, masks))
    packed = None
    if slots.processes > 1 and spec.collective_bits != FLOAT_BITS:
        packed = merge_packed(spec, key, state, sent, share)
    copy = server_copy(spec, state.server, of_all, trained, there)
    aggregator = merge(spec, before, sent, slots.weights(share), packed, copy)
    if copy is not None:
        state = state.replace(server=with_average(spec, state.server, aggregator))
    aggregator = pruned_anew(spec, state, aggregator, clients, masks)
    if spec.adapters is not None and spec.adapters.stacks:
        anew = drawn_anew(aggregator.params, fold(key, Purpose.ADAPTERS, state.round))
        aggregator = aggregator.replace(params=anew)
    state = state.replace(aggregator=aggregator, clients=sent)
    moved = moved_masks(spec, key, state, clients)
    received = hold_model(spec, state)
    if reachable is not None:
        received = where_rows(at(there), received, sent)
    return state.replace(clients=received, has_current_model=there), up, moved


def pruned_anew(
    spec: RunSpec, state: State, after: Aggregator, clients: Client, masks: Any
) -> Aggregator:
    """The aggregator after an average with what its pruner has learnt from that.

    Args:
      spec: functions and static numbers of the run.
      state: with the aggregator before the average.
      after: the aggregator after it.
      clients: that trained, `[P, ...]`.
      masks: of those that were averaged, `[P, ...]`; of the others nothing is kept.
    """
    before = state.aggregator
    if before.pruning.score_state is not None:
        # Of weights that a client kept but never stepped on, whatever kept it from that, nothing
        # is learnt: what averaging changes of them is rounding.
        stepped = jax.vmap(partial(_has_stepped, spec, before))(clients)
        masks = where_rows(stepped, masks, jax.tree.map(jnp.zeros_like, masks))
    kept = jax.tree.map(lambda m: m.any(axis=0), masks)
    rates = _rates(spec, state.round)
    pruning = spec.pruner.update(before.pruning, before.params, after.params, kept, rates)
    return after.replace(pruning=pruning)


def moved_masks(spec: RunSpec, key: Array, state: State, clients: Client) -> Array:
    """The overlap of clients' masks with those of the next round, float32 `[P]`."""
    # The next period's masks have its rates.
    following = partial(masks_of, spec, key, state.replace(round=state.round + 1))
    return jax.vmap(lambda c: overlap(spec, c.masks, following(c.number)))(clients)


def _has_stepped(spec: RunSpec, before: Aggregator, client: Client) -> Array:
    """Whether a client's weights are others than it received at the start of the period."""
    changed = jax.tree.map(
        lambda w, r: jnp.any(w != r), shared_part(spec, client.params),
        received_by(spec, before.params, client),
    )  # fmt: skip
    return jnp.any(jnp.stack(jax.tree.leaves(changed)))


def _rates(spec: RunSpec, last: Array) -> Array:
    """Sum of the clients' learning rates over the exchanges of the period that ends so."""
    steps = spec.local_steps * spec.aggregate_every
    first = period_start(spec, last) * spec.local_steps
    return jnp.sum(jax.vmap(spec.client_rate)(first + jnp.arange(steps, dtype=jnp.int32)))


def hold_model(spec: RunSpec, state: State) -> Client:
    """The participants with the aggregated model and what else is shared, their masks as before."""
    clients, aggregator = state.clients, state.aggregator
    count = clients.number.size
    received, stats = (shared_part(spec, x) for x in (aggregator.params, aggregator.stats))
    params = with_shared(spec, clients.params, copies(received, count))
    clients = clients.replace(params=params)
    if spec.statistics == "aggregate":
        clients = clients.replace(stats=with_shared(spec, clients.stats, copies(stats, count)))
    if spec.client_optimizer_state == "average":
        clients = clients.replace(optimizer=copies(aggregator.optimizer, count))
    if spec.client_optimizer_state == "reset":
        fresh = spec.client_optimizer.init(aggregator.params)
        clients = clients.replace(optimizer=copies(fresh, count))
    return spec.slots.shard(clients)


def _receive(spec: RunSpec, key: Array, state: State) -> Client:
    """The participants with the aggregated model under the masks of a period that starts now."""
    clients = hold_model(spec, state)
    masks = jax.vmap(partial(masks_of, spec, key, state))(clients.number)
    return spec.slots.shard(clients.replace(masks=masks))
