"""What clients keep while they do not take part, and how participants are swapped."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.compression.compressor import init_tree
from jfedsl.engine.checkpoint_layout import lay_out
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.personal import (
    local_stats,
    personal_part,
    shared_part,
    with_local_stats,
    with_shared,
)
from jfedsl.engine.state import Client, CompressorStates, RunSpec, State, copies
from jfedsl.engine.streams import LOCAL, Stream
from jfedsl.engine.traffic import stream_shape
from jfedsl.sharding.slots import where_rows

CLIENT_STATES = ("resident", "host", "stateless")


class Memory(struct.PyTreeNode):
    """What a client keeps from one period that it takes part in to its next.

    The model, masks and what else is shared arrive anew, and are not among it.

    Attributes:
      params: personal parameters, see `personal_part`; None without any.
      stats: normalisation statistics that stay with it, see `local_stats`; None without any.
      optimizer: its optimizer state, where it is kept, else None.
      compressor_states: states of its compressors.
      received: the model as it last arrived; see `Client`.
      batches_seen: int32, batches drawn so far.
    """

    params: Any
    stats: Any
    optimizer: Any
    compressor_states: CompressorStates
    received: Any
    batches_seen: Array


def memory_of(spec: RunSpec, clients: Client) -> Memory:
    """What clients, one or many, keep of their state."""
    return Memory(
        params=personal_part(spec, clients.params),
        stats=local_stats(spec, clients.stats),
        optimizer=clients.optimizer if spec.client_optimizer_state == "keep" else None,
        compressor_states=clients.compressor_states,
        received=clients.received,
        batches_seen=clients.batches_seen,
    )


def fresh_client(spec: RunSpec, params: Any, stats: Any, image: tuple[int, ...]) -> Client:
    """A client that has not taken part yet, without number and masks.

    Args:
      spec: functions and static numbers of the run.
      params: of the layers that a client holds.
      stats: normalisation statistics of these layers.
      image: shape of an input.
    """
    received, shared = None, shared_part(spec, params)
    if spec.compressors.get("model_down") is not None:
        received = jax.tree.map(jnp.zeros_like, shared)

    def state(stream: Stream) -> Any:
        compressor = spec.compressors[stream.name]
        if compressor is None:  # the weights themselves are sent
            return None
        if stream.of_batch:
            shape = stream_shape(spec, stream, params, stats, image)
            return compressor(0).init(jnp.zeros(shape.shape, shape.dtype))
        return init_tree(compressor(0), params if stream.direction == LOCAL else shared)

    states = {stream.name: state(stream) for stream in spec.algorithm.streams}
    zero, optimizer = jnp.zeros((), jnp.int32), spec.client_optimizer.init(params)
    return Client(zero, params, stats, None, optimizer, states, received, zero)


def first_memory(spec: RunSpec, fresh: Client) -> Memory | None:
    """The memories of a state before the first round, as `State.memory` has them."""
    memory = memory_of(spec, fresh)
    if spec.client_state == "stateless":
        return copies(memory, 1)
    if not spec.memory_on_device:
        return None
    return spec.slots.shard(copies(memory, spec.slots.padded_rows(spec.clients)))


def swap_participants(spec: RunSpec, key: Array, state: State) -> State:
    """The state with the next period's participants in place of the last one's.

    Where clients' memories are on the host, this is done there (see `exchange_memories`).
    """
    if spec.client_state == "stateless":
        ids = draw_participants(spec, key, state.round)
        count = spec.slots.num_slots
        # As if it had been drawing batches all along, so that periods do not repeat each other.
        drawn = jnp.full(count, state.round * spec.local_steps)
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape[1:])), state.memory)
        return admit(spec, state, ids, memory.replace(batches_seen=drawn))
    if not spec.memory_on_device:
        return state
    ids = draw_participants(spec, key, state.round)
    left = memory_of(spec, state.clients)
    memory = _write(spec, state.memory, state.participants, left)
    rows = spec.slots.to_slots(ids)
    coming = spec.slots.shard(jax.tree.map(lambda x: x[rows], memory))
    return admit(spec, state.replace(memory=memory), ids, coming)


def admit(spec: RunSpec, state: State, ids: Array, memory: Memory) -> State:
    """The state with clients `ids[K]`, of these memories `[P, ...]`, in the participants' slots.

    They get the model later; until then they hold what was in their slot, beside what is personal.
    """
    kept = {name: value for name, value in vars(memory).items() if value is not None}
    before = state.clients
    kept["params"] = with_shared(spec, memory.params, shared_part(spec, before.params))
    kept["stats"] = with_local_stats(spec, memory.stats, before.stats)
    clients = before.replace(number=spec.slots.to_slots(ids), **kept)
    return state.replace(participants=ids, clients=spec.slots.shard(clients))


def exchange_memories(
    spec: RunSpec, state: State, ids: Array, source: Array, coming: Memory
) -> tuple[State, Memory]:
    """The next period's participants in place of the last one's, whose memories are returned.

    Args:
      spec: functions and static numbers of the run.
      state: between two periods.
      ids: of the next participants, int32 `[K]`.
      source: for each slot the one that its client has now, or -1, int32 `[P]`.
      coming: memories of the others, `[P, ...]`.

    Returns:
      The state, and the memories of the last participants, `[P, ...]`, where every process can
      fetch them.
    """
    left = memory_of(spec, state.clients)
    stays = source >= 0
    staying = jax.tree.map(lambda x: x[jnp.maximum(source, 0)], left)
    state = admit(spec, state, ids, where_rows(stays, staying, coming))
    slots = spec.slots
    out = slots.replicate if slots.processes > 1 else slots.shard
    return lay_out(spec, state), out(left)


def _write(spec: RunSpec, memory: Memory, ids: Array, rows: Memory) -> Memory:
    """Memories `[C', ...]` of all with those of participants `ids[K]` as their rows `[P, ...]`."""
    slots = spec.slots
    to_rows = jnp.where(slots.is_real, slots.to_slots(ids), jnp.iinfo(jnp.int32).max)
    new = jax.tree.map(
        lambda x, row: x.at[to_rows].set(row, mode="drop", unique_indices=slots.is_identity),
        memory, rows,
    )  # fmt: skip
    return slots.shard(new)


def memories(spec: RunSpec, state: State) -> Memory:
    """The memories of all clients as they are now, `[C, ...]`; the state has to have them."""
    at_work = memory_of(spec, state.clients)
    if spec.full_participation:
        ids = jnp.argsort(state.participants)
        return jax.tree.map(lambda x: x[ids], spec.slots.to_participants(at_work))
    whole = _write(spec, state.memory, state.participants, at_work)
    return jax.tree.map(lambda x: x[: spec.clients], whole)
