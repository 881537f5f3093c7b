"""Start and end of a period: participants receive model and masks, and send their models back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.compression.message import FLOAT_BITS, Message, kept_only, message_bytes
from jfedsl.data.partition import Partition
from jfedsl.engine.adapter_averaging import (
    AdapterRule,
    drawn_anew,
    stacked_entries,
    without_adapters,
)
from jfedsl.engine.averaging import merge, moment_masks
from jfedsl.engine.client_memory import swap_participants
from jfedsl.engine.masks import masks_of, overlap
from jfedsl.engine.packed_average import merge_packed
from jfedsl.engine.participants import period_start
from jfedsl.engine.server_copy import server_copy, with_average
from jfedsl.engine.state import Aggregator, Client, RunSpec, State, copies, present_weights, weights
from jfedsl.keys import Purpose, fold
from jfedsl.sharding.slots import where_rows

Draw = Callable[[RunSpec, Array, State], State]


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
    clients, down = jax.vmap(partial(_download, spec, key, state.round))(model)
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
    sent, up = jax.vmap(partial(_upload, spec, key, state))(clients)
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
    if before.pruning.score_state is not None:
        # Of weights that a client kept but never stepped on, whatever kept it from that, nothing
        # is learnt: what averaging changes of them is rounding.
        stepped = jax.vmap(partial(_has_stepped, before))(clients)
        masks = where_rows(stepped, masks, jax.tree.map(jnp.zeros_like, masks))
    kept = jax.tree.map(lambda m: m.any(axis=0), masks)
    pruning = spec.pruner.update(
        before.pruning, before.params, aggregator.params, kept, _rates(spec, state.round)
    )
    aggregator = aggregator.replace(pruning=pruning)
    if spec.adapters is not None and spec.adapters.stacks:
        anew = drawn_anew(aggregator.params, fold(key, Purpose.ADAPTERS, state.round))
        aggregator = aggregator.replace(params=anew)
    state = state.replace(aggregator=aggregator, clients=sent)
    # The next period's masks have its rates.
    following = partial(masks_of, spec, key, state.replace(round=state.round + 1))
    moved = jax.vmap(lambda c: overlap(spec, c.masks, following(c.number)))(clients)
    received = hold_model(spec, state)
    if reachable is not None:
        received = where_rows(at(there), received, sent)
    return state.replace(clients=received, has_current_model=there), up, moved


def _has_stepped(before: Aggregator, client: Client) -> Array:
    """Whether a client's weights are others than it received at the start of the period."""
    received = before.params if client.received is None else client.received
    changed = jax.tree.map(lambda w, r: jnp.any(w != r), client.params, received)
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
    clients = clients.replace(params=copies(aggregator.params, count))
    if spec.statistics == "aggregate":
        clients = clients.replace(stats=copies(aggregator.stats, count))
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


def _download(spec: RunSpec, key: Array, round_: Array, client: Client) -> tuple[Client, Array]:
    """One client with the model as it arrives, and the bytes that took.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      round_: that the period starts with.
      client: with the aggregator's model and new masks.
    """
    whole = _model_bytes(spec, client, with_masks=True)
    if spec.adapters is not None and spec.adapters.stacks:
        whole = jnp.where(round_ > 0, _stack_bytes(spec, spec.adapters, client), whole)
    if spec.compressors.get("model_down") is None:
        return client, whole
    kept = spec.pruner.kept(client.masks).params
    memory, change, messages = send_tree(
        spec.compressors["model_down"](client.number),
        client.compressor_states["model_down"],
        fold(key, Purpose.MODEL_DOWN, round_, client.number),
        jax.tree.map(jnp.subtract, client.params, client.received),
        kept,
    )
    # A client that has never received anything gets the weights themselves.
    met = client.batches_seen > 0
    arrived = jax.tree.map(
        lambda w, old, d: jnp.where(met, old + d, w), client.params, client.received, change
    )
    messages += _side_messages(spec, client)
    changed = message_bytes(messages, spec.pruner.mask_bits(client.masks))
    pick = partial(jnp.where, met)
    client = client.replace(
        params=_where_kept(kept, arrived, client.params),
        received=_where_kept(kept, arrived, client.received),
        compressor_states={
            **client.compressor_states,
            "model_down": jax.tree.map(pick, memory, client.compressor_states["model_down"]),
        },
    )
    return client, jnp.where(met, changed, whole)


def _where_kept(kept: Any, new: Any, old: Any) -> Any:
    return new if kept is None else jax.tree.map(jnp.where, kept, new, old)


def _upload(spec: RunSpec, key: Array, state: State, client: Client) -> tuple[Client, Array]:
    """One client as the aggregator sees it after its upload, and the bytes that took."""
    if spec.compressors.get("model_up") is None:
        return client, _model_bytes(spec, client, with_masks=False)
    received = state.aggregator.params if client.received is None else client.received
    memory, update, messages = send_tree(
        spec.compressors["model_up"](client.number),
        client.compressor_states["model_up"],
        fold(key, Purpose.MODEL_UP, state.round, client.number),
        jax.tree.map(jnp.subtract, client.params, received),
        spec.pruner.kept(client.masks).params,
    )
    client = client.replace(
        params=jax.tree.map(jnp.add, received, update),
        compressor_states={**client.compressor_states, "model_up": memory},
    )
    return client, message_bytes([*messages, *_side_messages(spec, client)])


def _model_bytes(spec: RunSpec, client: Client, with_masks: bool) -> Array:
    """Bytes of one client's kept weights and whatever else is shared, uncompressed, int32."""
    kept = spec.pruner.kept(client.masks).params
    messages = _messages(client.params, kept) + _side_messages(spec, client)
    return message_bytes(messages, spec.pruner.mask_bits(client.masks) if with_masks else 0)


def _stack_bytes(spec: RunSpec, rule: AdapterRule, client: Client) -> Array:
    """Bytes of the factors of all clients and of one client's other weights, int32.

    New adapters are drawn from a common seed.
    """
    others = jax.tree.leaves(without_adapters(client.params))
    messages = [Message(leaf) for leaf in others] + _side_messages(spec, client)
    return message_bytes(messages, FLOAT_BITS * stacked_entries(rule, client.params))


def _messages(tree: Any, kept: Any) -> list[Message]:
    leaves = jax.tree.leaves(tree)
    masks = [None] * len(leaves) if kept is None else jax.tree.leaves(kept)
    return [kept_only(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)]


def _side_messages(spec: RunSpec, client: Client) -> list[Message]:
    """What travels with the model, uncompressed: statistics and optimizer state, where shared."""
    messages = []
    if spec.statistics == "aggregate":
        messages += _messages(client.stats, spec.pruner.kept(client.masks).stats)
    # Step counters alone are worth nothing.
    if jax.tree.leaves(client.params) and spec.client_optimizer_state == "average":
        messages += _optimizer_messages(spec, client)
    return messages


def _optimizer_messages(spec: RunSpec, client: Client) -> list[Message]:
    """A client's moments, of entries that it kept, and its step counters: 32 bits each."""
    is_moment, kept = moment_masks(spec, client, spec.pruner.kept(client.masks))
    rows = zip(*map(jax.tree.leaves, (is_moment, client.optimizer, kept)), strict=True)
    return [kept_only(leaf, mask if flag else None) for flag, leaf, mask in rows]
