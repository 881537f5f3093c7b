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
from jfedsl.engine.masks import masks_of
from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.participants import first_participants
from jfedsl.engine.parts import group_cuts, least_cut
from jfedsl.engine.state import Aggregator, Client, RunSpec, Server, State, copies, weights
from jfedsl.sharding.slots import where_rows


def cuts_of(spec: RunSpec) -> np.ndarray:
    """The cut of each client, int `[C]`."""
    cuts = np.zeros(spec.clients, int)
    for cut, members in zip(group_cuts(spec), spec.pruner.groups, strict=True):
        cuts[members] = cut
    return cuts


def with_new_cuts(
    before: RunSpec, spec: RunSpec, key: Array, partition: Partition, fresh: Client, state: State
) -> State:
    """The state between two periods, for clients with other cuts.

    A client that holds a layer anew takes the server's moments of it. The server's become the mean
    of its own and of those of clients that it computes the layer for anew, by the weights of the
    clients: so the sum of all, by which the average of a layer moves under momentum, stays. What
    compressors of activations remember is of the old activation, and is given up.

    Args:
      before: the run with the old cuts.
      spec: the run with the new ones.
      key: run key.
      partition: which examples each client has.
      fresh: a client that has not taken part yet.
      state: as a checkpoint has it, rows of participants `[K, ...]` in their order.
    """
    ids, old, new = np.asarray(state.participants), cuts_of(before), cuts_of(spec)
    server, memory, aggregator = state.server, state.memory, state.aggregator
    clients = state.clients
    share = np.asarray(weights(spec, partition, jnp.asarray(ids)))
    cuts = _Change(old[ids], new[ids], share)
    if spec.client_optimizer_state == "keep":
        if spec.memory_on_device:
            padded = _padded(memory, old), _padded(memory, new)
            absent = _Change(*padded, np.zeros(len(padded[0])))
            moved = _moved(before, absent, memory.optimizer, clients.params, server)[0]
            memory = memory.replace(optimizer=moved)
        moved, of_server = _moved(before, cuts, clients.optimizer, clients.params, server)
        clients, server = clients.replace(optimizer=moved), server.replace(optimizer=of_server)
    elif spec.client_optimizer_state == "average":
        # All that held a layer had the average.
        rows = copies(jax.tree.map(jnp.asarray, aggregator.optimizer), len(ids))
        moved, of_server = _moved(before, cuts, rows, aggregator.params, server)
        moved = _mean_of_holders(before, cuts, moved, aggregator)
        aggregator, server = (
            aggregator.replace(optimizer=moved), server.replace(optimizer=of_server),
        )  # fmt: skip
    clients = _without_activations(spec, clients, fresh, old[ids] != new[ids])
    if spec.memory_on_device:
        changed = _padded(memory, old) != _padded(memory, new)
        memory = _without_activations(spec, memory, fresh, changed)
    state = state.replace(clients=clients, server=server, memory=memory, aggregator=aggregator)
    if spec.full_participation:
        state = _in_order(state, np.asarray(first_participants(spec)))
    return _with_masks(spec, key, state)


def _padded(memory: Any, cuts: np.ndarray) -> np.ndarray:
    """Cuts of clients `[C]` for the rows of a memory `[C', ...]`, of which the last are padding."""
    return np.pad(cuts, (0, len(memory.batches_seen) - len(cuts)), mode="edge")


def _in_order(state: State, ids: np.ndarray) -> State:
    """The state with its participants in another order."""
    rows = np.argsort(np.asarray(state.participants))[ids]
    return state.replace(
        participants=jnp.asarray(ids, jnp.int32),
        has_current_model=jnp.asarray(state.has_current_model)[rows],
        clients=jax.tree.map(lambda x: jnp.asarray(x)[rows], state.clients),
    )


def _with_masks(spec: RunSpec, key: Array, state: State) -> State:
    """The state with masks of the period that starts."""
    numbers = jnp.asarray(state.clients.number)
    masks = jax.vmap(lambda number: masks_of(spec, key, state, number))(numbers)
    return state.replace(clients=state.clients.replace(masks=masks))


def _without_activations(spec: RunSpec, rows: Any, fresh: Client, changed: np.ndarray) -> Any:
    """Clients or memories, those of a changed cut with fresh compressors of activations."""
    names = {stream.name for stream in spec.algorithm.streams if stream.of_batch}
    where = jnp.asarray(changed)

    def renewed(name: str, held: Any) -> Any:
        if name not in names:
            return held
        start = fresh.compressor_states[name]
        new = jax.tree.map(lambda x, s: jnp.broadcast_to(s, x.shape), held, start)
        return where_rows(where, new, held)

    states = {name: renewed(name, held) for name, held in rows.compressor_states.items()}
    return rows.replace(compressor_states=states)


class _Change(NamedTuple):
    """Cuts of some clients before and after, int `[n]`, and weights in a mean, float `[n]`."""

    old: np.ndarray
    new: np.ndarray
    share: np.ndarray


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
