"""What clients keep while they do not take part, and who comes and goes between two periods."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.compression.compressor import init_tree
from jfedsl.engine.checkpoint_layout import lay_out
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.state import Client, Links, Scheme, State, copies
from jfedsl.engine.traffic import smashed_shape
from jfedsl.sharding.slots import where_rows

CLIENT_STATES = ("resident", "host", "stateless")


class Memory(struct.PyTreeNode):
    """What a client keeps from one period that it takes part in to its next.

    The model, masks and what else is shared arrive anew, and are not among it.

    Attributes:
      stats: normalisation statistics, where they are local, else None.
      optimizer: its optimizer state, where it is kept, else None.
      links: states of its compressors.
      received: as in `Client`.
      drawn: int32, batches drawn so far.
    """

    stats: Any
    optimizer: Any
    links: Links
    received: Any
    drawn: Array


def memory_of(scheme: Scheme, clients: Client) -> Memory:
    """What clients, one or many, keep of their state."""
    return Memory(
        stats=clients.stats if scheme.statistics == "local" else None,
        optimizer=clients.optimizer if scheme.client_optimizer_state == "keep" else None,
        links=clients.links,
        received=clients.received,
        drawn=clients.drawn,
    )


def fresh_client(scheme: Scheme, params: Any, stats: Any, image: Array) -> Client:
    """A client that has not taken part yet, without number and masks.

    Args:
      scheme: of the run.
      params: of the client-side layers.
      stats: likewise.
      image: a normalised sample input; only its shape and dtype matter.
    """
    shape = smashed_shape(scheme, params, stats, image.shape)
    smashed, links = jnp.zeros(shape.shape, shape.dtype), scheme.links
    received = None if links.model_down is None else jax.tree.map(jnp.zeros_like, params)
    states = Links(
        smashed=links.smashed(0).init(smashed),
        cut_gradient=links.cut_gradient(0).init(smashed),
        client_gradient=init_tree(links.client_gradient(0), params),
        model_up=links.model_up and init_tree(links.model_up(0), params),
        model_down=links.model_down and init_tree(links.model_down(0), params),
    )
    zero, optimizer = jnp.zeros((), jnp.int32), scheme.client_optimizer.init(params)
    return Client(zero, params, stats, None, optimizer, states, received, zero)


def first_memory(scheme: Scheme, fresh: Client) -> Memory | None:
    """The memories of a state before the first round, as `State.memory` has them."""
    own = memory_of(scheme, fresh)
    if scheme.client_state == "stateless":
        return copies(own, 1)
    if not scheme.remembers:
        return None
    return scheme.placement.spread(copies(own, scheme.placement.evenly(scheme.clients)))


def turn_over(scheme: Scheme, key: Array, state: State) -> State:
    """The state with the next period's participants in place of the last one's.

    Where clients' memories are on the host, this is done there (see `exchange_memories`).
    """
    if scheme.client_state == "stateless":
        ids = draw_participants(scheme, key, state.round)
        count = scheme.placement.places
        # As if it had been drawing batches all along, so that periods do not repeat each other.
        drawn = jnp.full(count, state.round * scheme.local_steps)
        memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape[1:])), state.memory)
        return come(scheme, state, ids, memory.replace(drawn=drawn))
    if not scheme.remembers:
        return state
    ids = draw_participants(scheme, key, state.round)
    left = memory_of(scheme, state.clients)
    memory = _write(scheme, state.memory, state.participants, left)
    rows = scheme.placement.to_places(ids)
    coming = scheme.placement.spread(jax.tree.map(lambda x: x[rows], memory))
    return come(scheme, state.replace(memory=memory), ids, coming)


def come(scheme: Scheme, state: State, ids: Array, memory: Memory) -> State:
    """The state with clients `ids[K]`, of these memories `[P, ...]`, in the participants' places.

    They get the model later; until then they hold what was in their place.
    """
    kept = {name: value for name, value in vars(memory).items() if value is not None}
    clients = state.clients.replace(number=scheme.placement.to_places(ids), **kept)
    return state.replace(participants=ids, clients=scheme.placement.spread(clients))


def exchange_memories(
    scheme: Scheme, state: State, ids: Array, source: Array, coming: Memory
) -> tuple[State, Memory]:
    """The next period's participants in place of the last one's, whose memories are returned.

    Args:
      scheme: of the run.
      state: between two periods.
      ids: of the next participants, int32 `[K]`.
      source: for each place the one that its client has now, or -1, int32 `[P]`.
      coming: memories of the others, `[P, ...]`.

    Returns:
      The state, and the memories of the last participants, `[P, ...]`, where every process can
      fetch them.
    """
    left = memory_of(scheme, state.clients)
    stays = source >= 0
    own = jax.tree.map(lambda x: x[jnp.maximum(source, 0)], left)
    state = come(scheme, state, ids, where_rows(stays, own, coming))
    placement = scheme.placement
    out = placement.everywhere if placement.processes > 1 else placement.spread
    return lay_out(scheme, state), out(left)


def _write(scheme: Scheme, memory: Memory, ids: Array, rows: Memory) -> Memory:
    """Memories `[C', ...]` of all with those of participants `ids[K]` as their rows `[P, ...]`."""
    placement = scheme.placement
    places = jnp.where(placement.needed, placement.to_places(ids), jnp.iinfo(jnp.int32).max)
    new = jax.tree.map(
        lambda x, row: x.at[places].set(row, mode="drop", unique_indices=placement.identical),
        memory, rows,
    )  # fmt: skip
    return placement.spread(new)


def memories(scheme: Scheme, state: State) -> Memory:
    """The memories of all clients as they are now, `[C, ...]`; the state has to have them."""
    own = memory_of(scheme, state.clients)
    if scheme.everyone:
        ids = jnp.argsort(state.participants)
        return jax.tree.map(lambda x: x[ids], scheme.placement.to_participants(own))
    whole = _write(scheme, state.memory, state.participants, own)
    return jax.tree.map(lambda x: x[: scheme.clients], whole)
