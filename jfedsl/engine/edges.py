"""Edge servers between clients and the cloud: each averages the models of its own clients.

Client n of C belongs to edge n * E // C: the first C / E clients to edge 0, and so on. All clients
take part in every period. At its end each edge averages its clients by the aggregator's rule; at
the end of every `cloud_every`-th period the cloud then averages the edges, by the weights of their
clients, and all edges take the mean. In between an edge's clients go on from their edge's model.

Masks follow the cloud: clients are ranked anew where the cloud averages, by its model, so that all
edges prune alike.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from jfedsl.data.partition import Partition
from jfedsl.engine.averaging import merge
from jfedsl.engine.model_messages import upload
from jfedsl.engine.participants import of_some
from jfedsl.engine.period import Draw, deliver, hold_model, moved_masks, open_period, pruned_anew
from jfedsl.engine.state import Aggregator, Client, RunSpec, Server, State, copies, weights


class EdgeModels(struct.PyTreeNode):
    """The client-side models that edge servers hold.

    Attributes:
      params: `[E, ...]`, as of each edge's last average.
      stats: averaged statistics, likewise; unused under the local policy.
      optimizer: averaged optimizer states; None unless clients average theirs.
      cloud_params: `[...]`, as of the cloud's last average.
    """

    params: Any
    stats: Any
    optimizer: Any
    cloud_params: Any


# What the cloud does with the servers' parts where it averages.
AverageServers = Callable[[RunSpec, Partition, State], Server]


def init_edges(spec: RunSpec, state: State) -> EdgeModels:
    """The edges of a new run, which all hold the aggregator's model."""
    aggregator = state.aggregator
    whole = aggregator.params, aggregator.stats, aggregator.optimizer
    return _models(copies(whole, edges_of(spec)), aggregator.params)


def _models(of_edges: tuple[Any, ...], cloud_params: Any) -> EdgeModels:
    params, stats, optimizer = of_edges
    return EdgeModels(params=params, stats=stats, optimizer=optimizer, cloud_params=cloud_params)


def edges_of(spec: RunSpec) -> int:
    """E, the number of edges."""
    return int(spec.options["edges"])


def edge_of_clients(clients: int, edges: int) -> np.ndarray:
    """The edge that each client belongs to, int `[C]`.

    >>> edge_of_clients(6, 2).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    return np.arange(clients) * edges // clients


def cloud_period(spec: RunSpec) -> int:
    """Rounds from one average of the cloud to the next."""
    return spec.aggregate_every * int(spec.options["cloud_every"])


def of_one_edge(spec: RunSpec) -> RunSpec:
    """The run of one edge's clients, on one device."""
    return of_some(spec, spec.participants // edges_of(spec))


def by_edge(spec: RunSpec, rows: Any) -> Any:
    """Arrays `[K, ...]` of participants as `[E, K / E, ...]`, those of each edge together."""
    members = _members(spec)
    if np.array_equal(members.ravel(), np.arange(members.size)):
        return jax.tree.map(lambda x: x.reshape(*members.shape, *x.shape[1:]), rows)
    return jax.tree.map(lambda x: x[members], rows)


def to_rows(spec: RunSpec, by_edges: Any) -> Any:
    """`by_edge` undone."""
    place = np.argsort(_members(spec).ravel())
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_edges)
    if np.array_equal(place, np.arange(place.size)):
        return flat
    return jax.tree.map(lambda x: x[place], flat)


def _members(spec: RunSpec) -> np.ndarray:
    """Positions among the participants of each edge's clients, int `[E, K / E]`."""
    edges = edge_of_clients(spec.clients, edges_of(spec))[np.concatenate(spec.pruner.groups)]
    return np.argsort(edges, kind="stable").reshape(edges_of(spec), -1)


def at_each_edge(function: Callable[..., Any], *rows: Any, looped: bool = False) -> Any:
    """A function of one edge for all edges, `[E, ...]`.

    Args:
      function: takes and returns pytrees of arrays.
      *rows: its arguments, with a leading axis of edges.
      looped: whether edges follow each other, where one of them is enough work for the device.
    """
    edges = jax.tree.leaves(rows)[0].shape[0]
    if edges == 1:  # the program of a run without edges, to the bit
        alone = function(*jax.tree.map(lambda x: x[0], rows))
        return jax.tree.map(lambda x: x[None], alone)
    if looped:
        return lax.map(lambda row: function(*row), rows)
    return jax.vmap(function)(*rows)


def edge_weights(spec: RunSpec, partition: Partition, participants: Array) -> Array:
    """Weights of the edges in the cloud's average, float32 `[E]`, sum 1."""
    return jnp.sum(by_edge(spec, weights(spec, partition, participants)), axis=1)


def mean_of_edges(tree: Any, share: Array) -> Any:
    """The mean by weights `[E]` of arrays `[E, ...]`; integers (step counters) are equal."""
    if share.size == 1:
        return jax.tree.map(lambda x: x[0], tree)

    def mean(x: Array) -> Array:
        return jnp.tensordot(share, x, 1) if jnp.issubdtype(x.dtype, jnp.floating) else x[0]

    return jax.tree.map(mean, tree)


def start_period(spec: RunSpec, key: Array, state: State, draw: Draw) -> tuple[State, Array]:
    """Every edge sends its model to its clients, with their masks; see `period.start_period`."""
    state, of_edge = open_period(spec, key, state, draw), of_one_edge(spec)

    def one(clients: Client, ids: Array, edge: tuple[Any, ...]) -> tuple[Client, Array]:
        before = _at_edge(state, clients, ids, edge)
        waiting = before.replace(has_current_model=jnp.zeros(ids.shape, bool))
        after, down = deliver(of_edge, key, waiting, None)
        return after.clients, down

    after = at_each_edge(one, *_edges(spec, state))
    clients, down = spec.slots.to_slots(to_rows(spec, after))
    holds = jnp.ones_like(state.has_current_model)
    return state.replace(clients=clients, has_current_model=holds), down


def end_period(
    average_servers: AverageServers, spec: RunSpec, key: Array, partition: Partition, state: State,
    reachable: Array | None,
) -> tuple[State, Array, Array]:  # fmt: skip
    """Clients upload, every edge averages, and the cloud where it is due; see `period.end_period`.

    Args:
      average_servers: the servers after an average of the cloud.
      spec: functions and static numbers of the run.
      key: run key.
      partition: which examples each client has.
      state: after the last exchange of the period.
      reachable: None, as nobody can fail.
    """
    assert reachable is None
    of_edge, trained, cloud_every = of_one_edge(spec), state.clients, spec.options["cloud_every"]

    def average(clients: Client, ids: Array, edge: tuple[Any, ...]) -> Any:
        at = _at_edge(state, clients, ids, edge)
        sent, up = jax.vmap(partial(upload, of_edge, key, at))(clients)
        after = merge(of_edge, at.aggregator, sent, weights(of_edge, partition, ids))
        return sent, up, (after.params, after.stats, after.optimizer), after.adapter_error

    sent, up, edges, errors = at_each_edge(average, *_edges(spec, state))
    sent, up = spec.slots.to_slots(to_rows(spec, (sent, up)))
    share = edge_weights(spec, partition, state.participants)
    params, stats, optimizer = mean_of_edges(edges, share)
    aggregator = state.aggregator.replace(
        params=params, stats=stats, optimizer=optimizer, adapter_error=mean_of_edges(errors, share)
    )
    models = _models(edges, state.algorithm_state.cloud_params)
    state = state.replace(aggregator=aggregator, algorithm_state=models)

    def cloud(state: State) -> State:
        rates = spec._replace(aggregate_every=cloud_period(spec))
        ranked = _ranked(rates, state, trained, sent.masks)
        whole = params, stats, optimizer
        models = _models(copies(whole, edges_of(spec)), params)
        server = average_servers(spec, partition, state)
        return state.replace(aggregator=ranked, algorithm_state=models, server=server)

    if cloud_every == 1:
        state = cloud(state)
    else:
        is_due = (state.round + 1) % cloud_period(spec) == 0
        state = lax.cond(is_due, cloud, lambda state: state, state)
    state = state.replace(clients=sent)
    moved = moved_masks(spec, key, state, trained)

    def hold(clients: Client, ids: Array, edge: tuple[Any, ...]) -> Client:
        return hold_model(of_edge, _at_edge(state, clients, ids, edge))

    clients = spec.slots.to_slots(to_rows(spec, at_each_edge(hold, *_edges(spec, state))))
    return state.replace(clients=clients), up, moved


def _ranked(spec: RunSpec, state: State, clients: Client, masks: Any) -> Aggregator:
    """The aggregator, its clients ranked by what the cloud's model was and is."""
    aggregator: Aggregator = state.aggregator
    before = aggregator.replace(params=state.algorithm_state.cloud_params)
    return pruned_anew(spec, state.replace(aggregator=before), aggregator, clients, masks)


def _edges(spec: RunSpec, state: State) -> tuple[Client, Array, tuple[Any, ...]]:
    """Clients, their numbers and models of all edges, with a leading axis of edges."""
    models = state.algorithm_state
    rows = by_edge(spec, (spec.slots.to_participants(state.clients), state.participants))
    return *rows, (models.params, models.stats, models.optimizer)


def _at_edge(state: State, clients: Client, ids: Array, edge: tuple[Any, ...]) -> State:
    """The state as one edge has it, with its clients and its model."""
    params, stats, optimizer = edge
    aggregator = state.aggregator.replace(params=params, stats=stats, optimizer=optimizer)
    there = jnp.ones(ids.shape, bool)
    return state.replace(
        clients=clients, participants=ids, has_current_model=there, aggregator=aggregator
    )
