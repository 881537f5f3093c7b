"""Cuts that change between two periods: who holds a layer from then on takes over its moments.

The arrays of a state are as for the last cut that clients may have, and the server's as for the
first one, whatever cuts they have now. After an average every copy of a layer is the same. So what
moves are moments of optimizers, and rows of participants, which lie in the order of groups.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.data.partition import Partition
from jfedsl.engine.client_memory import memory_of
from jfedsl.engine.masks import masks_of
from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.participants import first_participants
from jfedsl.engine.parts import cuts_of, least_cut
from jfedsl.engine.state import Aggregator, Client, RunSpec, Server, State, copies, weights
from jfedsl.sharding.slots import where_rows


class _Change(NamedTuple):
    """Cuts of some clients before and after, int `[n]`, and weights in a mean, float `[n]`."""

    old: np.ndarray
    new: np.ndarray
    share: np.ndarray

    def of(self, numbers: np.ndarray) -> "_Change":
        """Of these clients."""
        return _Change(*(each[numbers] for each in self))


def with_new_cuts(
    before: RunSpec, spec: RunSpec, key: Array, partition: Partition, fresh: Client, state: State
) -> State:
    """The state between two periods, for clients with other cuts.

    A client that holds a layer anew takes the server's moments of it. The server's become the mean
    of its own and of those of clients that it computes the layer for anew, by the weights of all
    clients: so the sum of all, by which the average of a layer moves under momentum, stays. Step
    counters stay as they are. Compressors of a client whose cut changes begin anew: what they
    remember is of other activations and layers.

    Args:
      before: the run with the old cuts.
      spec: the run with the new ones.
      key: run key.
      partition: which examples each client has.
      fresh: a client that has not taken part yet.
      state: as a checkpoint has it, the first rows of participants in their order.
    """
    ids = np.asarray(state.participants)
    state = state.replace(clients=jax.tree.map(lambda x: jnp.asarray(x)[: len(ids)], state.clients))
    share = np.asarray(weights(spec, partition, jnp.arange(spec.clients)))
    everyone = _Change(cuts_of(before), cuts_of(spec), share)
    if spec.client_optimizer_state != "keep":
        state = _with_shared_moments(before, everyone, state)
    if spec.memory_on_device:
        state = _with_memories(before, everyone, fresh, state)
    else:
        state = _with_rows(before, everyone.of(ids), fresh, state)
    if spec.full_participation:
        state = _in_order(state, np.asarray(first_participants(spec)))
    numbers = jnp.asarray(state.clients.number)
    masks = jax.vmap(lambda number: masks_of(spec, key, state, number))(numbers)
    return state.replace(clients=state.clients.replace(masks=masks))


def _with_rows(spec: RunSpec, cuts: _Change, fresh: Client, state: State) -> State:
    """The state with moments and compressors of the participants, whose cuts changed."""
    clients, server = _recut(spec, cuts, fresh, state.clients, state.server)
    return state.replace(clients=clients, server=server)


def _with_memories(spec: RunSpec, cuts: _Change, fresh: Client, state: State) -> State:
    """The same of all clients, taking part or not, where the state has their memories."""
    ids, rows = np.asarray(state.participants), len(state.memory.batches_seen)
    now = memory_of(spec, state.clients)
    memory = jax.tree.map(lambda x, row: jnp.asarray(x).at[ids].set(row), state.memory, now)
    padded = cuts.of(np.minimum(np.arange(rows), spec.clients - 1))
    padded = padded._replace(share=np.where(np.arange(rows) < spec.clients, padded.share, 0.0))
    memory, server = _recut(spec, padded, fresh, memory, state.server)
    moved = {"compressor_states": memory.compressor_states}
    if memory.optimizer is not None:
        moved["optimizer"] = memory.optimizer
    clients = state.clients.replace(**jax.tree.map(lambda x: x[ids], moved))
    return state.replace(clients=clients, memory=memory, server=server)


def _recut(
    spec: RunSpec, cuts: _Change, fresh: Client, rows: Any, server: Server
) -> tuple[Any, Server]:
    """Clients or memories `[n, ...]`, and the server, after cuts changed."""
    if spec.client_optimizer_state == "keep":
        optimizer, of_server = _moved(spec, cuts, rows.optimizer, fresh.params, server)
        rows, server = rows.replace(optimizer=optimizer), server.replace(optimizer=of_server)
    new = jax.tree.map(
        lambda x, start: jnp.broadcast_to(start, x.shape),
        rows.compressor_states, fresh.compressor_states,
    )  # fmt: skip
    changed = jnp.asarray(cuts.old != cuts.new)
    return rows.replace(compressor_states=where_rows(changed, new, rows.compressor_states)), server


def _with_shared_moments(spec: RunSpec, cuts: _Change, state: State) -> State:
    """The state with the server's moments, and those that clients share, if they do.

    Between two periods all clients have one optimizer state: the average, or a new one.
    """
    aggregator, server, params = state.aggregator, state.server, state.aggregator.params
    pairs, which = np.unique(np.stack([cuts.old, cuts.new]), axis=1, return_inverse=True)
    each = _Change(pairs[0], pairs[1], np.bincount(which.reshape(-1), cuts.share))
    shared = spec.client_optimizer_state == "average"
    one = aggregator.optimizer if shared else spec.client_optimizer.init(params)
    rows = copies(jax.tree.map(jnp.asarray, one), len(each.share))
    moved, of_server = _moved(spec, each, rows, params, server)
    if shared:
        optimizer = _mean_of_holders(spec, each, moved, aggregator)
        state = state.replace(aggregator=aggregator.replace(optimizer=optimizer))
    return state.replace(server=server.replace(optimizer=of_server))


def _in_order(state: State, ids: np.ndarray) -> State:
    """The state with its participants in another order."""
    rows = np.argsort(np.asarray(state.participants))[ids]
    return state.replace(
        participants=jnp.asarray(ids, jnp.int32),
        has_current_model=jnp.asarray(state.has_current_model)[rows],
        clients=jax.tree.map(lambda x: x[rows], state.clients),
    )


def _moved(
    spec: RunSpec, cuts: _Change, optimizer: Any, params: Any, server: Server
) -> tuple[Any, Any]:
    """Optimizer states of clients and server after cuts changed.

    Args:
      spec: the run.
      cuts: of the clients.
      optimizer: of the clients, `[n, ...]`.
      params: of clients, for their structure.
      server: the server.
    """
    leaves, structure = jax.tree.flatten(optimizer)
    of_server, of_server_structure = jax.tree.flatten(server.optimizer)
    first = least_cut(spec)
    here = _leaves_by_layer(spec.client_optimizer, optimizer, params, 0)
    there = _leaves_by_layer(spec.server_optimizer, server.optimizer, server.params, first)
    for layer in range(first, spec.cut):
        held, holds = cuts.old > layer, cuts.new > layer
        stay, join = (np.where(~holds & was, cuts.share, 0.0) for was in (~held, held))
        whole = stay.sum() + join.sum()
        for i, j in zip(here[layer], there[layer], strict=True):
            each, one = jnp.asarray(leaves[i]), jnp.asarray(of_server[j])
            gained = jnp.asarray(holds & ~held).reshape(-1, *(1,) * one.ndim)
            leaves[i] = jnp.where(gained, one[None], each)
            if whole > 0:
                joining = jnp.tensordot(jnp.asarray(join / whole, jnp.float32), each, 1)
                of_server[j] = np.float32(stay.sum() / whole) * one + joining
    moved = jax.tree.unflatten(structure, leaves)
    return moved, jax.tree.unflatten(of_server_structure, of_server)


def _mean_of_holders(spec: RunSpec, cuts: _Change, optimizer: Any, aggregator: Aggregator) -> Any:
    """The averaged optimizer state of those that hold a layer, from states `[n, ...]` of all."""
    leaves, structure = jax.tree.flatten(aggregator.optimizer)
    rows = jax.tree.leaves(optimizer)
    by_layer = _leaves_by_layer(spec.client_optimizer, aggregator.optimizer, aggregator.params, 0)
    for layer in range(least_cut(spec), spec.cut):
        share = np.where(cuts.new > layer, cuts.share, 0.0)
        for i in by_layer[layer] if share.any() else ():
            leaves[i] = jnp.tensordot(jnp.asarray(share / share.sum(), jnp.float32), rows[i], 1)
    return jax.tree.unflatten(structure, leaves)


def _leaves_by_layer(optimizer: Any, state: Any, params: Any, first: int) -> dict[int, list[int]]:
    """Which leaves of an optimizer state are moments of each layer's parameters, in one order."""
    numbers = tuple(jax.tree.map(lambda _, n=first + i: n, layer) for i, layer in enumerate(params))
    layers = jax.tree.leaves(like_moments(optimizer, state, numbers, -1))
    found: dict[int, list[int]] = {number: [] for number in range(first, first + len(params))}
    for position, number in enumerate(layers):
        if number >= 0:
            found[number].append(position)
    return found
