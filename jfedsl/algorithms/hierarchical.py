"""Split learning over edge servers (HierFAVG, arXiv 1905.06641, for the averages).

Clients belong to --edges edge servers, a band and a cell each. Every --aggregate_every rounds each
edge averages the client parts of its own clients; every --cloud_every such periods the cloud
averages the edges' models, and all edges take the mean. The server part is where --server_at says:

    cloud  one server part, as in FedSL: it steps on all clients' activations, which edges pass on
           over their backhauls, as they do the gradients at the cut;
    edge   each edge has a copy, which steps on its own clients' activations. The copies are
           averaged with the client parts, by the same weights; what becomes of their optimizers'
           moments follows --client_optimizer_state.

With one edge and --cloud_every=1 both are FedSL. The definition is ours, after the abstracts of
HierFAVG and of hierarchical split federated learning (arXiv 2412.07197).
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from jfedsl.algorithms import fedsl
from jfedsl.algorithms.edge_network import (
    BACKHAUL_BPS,
    BACKHAUL_JOULES_PER_BIT,
    EDGE_RADIUS_M,
    SERVER_AT,
    at_edges,
    cells,
    check_radii,
    clock,
    columns,
    models_passed,
    row,
)
from jfedsl.data.partition import Partition
from jfedsl.engine import round as engine_round
from jfedsl.engine.algorithm import BOUND, DEADLINE, OUTAGE, SPLIT, Algorithm, Option
from jfedsl.engine.drift import Drift
from jfedsl.engine.edges import (
    EdgeModels,
    at_each_edge,
    by_edge,
    cloud_period,
    edge_weights,
    edges_of,
    end_period,
    init_edges,
    mean_of_edges,
    of_one_edge,
    start_period,
    to_rows,
)
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.exchanges import Exchanges, exchanges
from jfedsl.engine.participants import first_participants
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import Client, Data, RunSpec, Server, State, copies, weights
from jfedsl.engine.transmit import Uplink
from jfedsl.errors import flag_error


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """As in FedSL, with one server part or one at each edge."""
    step = step_at_edges if at_edges(x.spec) else joint_step
    return fedsl.exchange(x, server, clients, server_step=step)


def step_at_edges(
    x: Exchange, server: Server, received: Uplink, labels: Array
) -> tuple[Server, Array, Array]:
    """Steps each edge's copy `[E, ...]` on the activations of its clients, as one batch."""
    spec, of_edge = x.spec, of_one_edge(x.spec)

    def one(server: Server, ids: Array, rows: Any) -> tuple[Server, Array, Array]:
        values, labels, lengths = rows
        share = weights(of_edge, x.data.partition, ids)
        at_edge = received._replace(values=values, lengths=lengths, weights=share)
        return joint_step(x._replace(spec=of_edge, weights=share), server, at_edge, labels)

    rows = spec.slots.to_participants((received.values, labels, received.lengths))
    ids, rows = by_edge(spec, (first_participants(spec), rows))
    server, *served = at_each_edge(one, server, ids, rows, looped=spec.chunk < spec.clients)
    losses, cut_gradient = spec.slots.to_slots(to_rows(spec, tuple(served)))
    return server, losses, cut_gradient


def run_round(
    spec: RunSpec, data: Data, key: Array, state: State, exchange_all: Exchanges = exchanges
) -> tuple[State, RoundRecord]:
    """One round, in which a period of the edges, and one of the cloud, may start or end.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      state: before the round.
      exchange_all: the exchanges of the round.
    """
    after, record = engine_round.run_round(
        spec, data, key, state, exchange_all,
        start=start_period, end=partial(end_period, _average_servers),
    )  # fmt: skip
    return after, record.replace(sent=record.sent | models_passed(spec, state))


def server_of(spec: RunSpec, partition: Partition, state: State) -> Server:
    """The one server part, or the mean of the copies with that of their moments."""
    if not at_edges(spec):
        server: Server = state.server
        return server
    merged: Server = mean_of_edges(state.server, edge_weights(spec, partition, state.participants))
    return merged


def _average_servers(spec: RunSpec, partition: Partition, state: State) -> Server:
    """The servers after an average of the cloud: the mean of the copies at each edge."""
    if not at_edges(spec):
        server: Server = state.server
        return server
    merged, optimizer = server_of(spec, partition, state), state.server.optimizer
    if spec.client_optimizer_state == "reset":
        optimizer = copies(spec.server_optimizer.init(merged.params), edges_of(spec))
    if spec.client_optimizer_state == "average":
        optimizer = copies(merged.optimizer, edges_of(spec))
    shared: Server = copies(merged, edges_of(spec))
    return shared.replace(optimizer=optimizer)


def _init_server(spec: RunSpec, server: Server) -> Server:
    if not at_edges(spec):
        return server
    of_all: Server = copies(server, edges_of(spec))
    return of_all


def _init_state(spec: RunSpec, key: Array, image: tuple[int, ...], state: State) -> EdgeModels:
    del key, image
    return init_edges(spec, state)


def _server_of_client(spec: RunSpec, state: State, client: Array) -> Server:
    edge = client * edges_of(spec) // spec.clients
    server: Server = state.server
    return jax.tree.map(lambda x: x[edge], server) if at_edges(spec) else server


def _drift(spec: RunSpec, sizes: np.ndarray) -> Drift:
    """Within an edge over its period, between edges over that of the cloud."""
    edges, rounds = edges_of(spec), cloud_period(spec)
    if edges == 1:
        return Drift(spec.aggregate_every, spec.aggregate_every)
    share = sizes if spec.aggregation == "examples" else np.ones(spec.clients)
    of_edge = share.reshape(edges, -1)
    largest = float((of_edge / of_edge.sum(axis=1, keepdims=True)).max())
    alike = spec.pruner.mask_group
    beyond = f"edges={edges} (the cloud weighs an edge whatever masks its clients have)"
    differs = alike is None or len(set(alike.tolist())) > 1
    return Drift(
        rounds, spec.aggregate_every, largest, at_edges(spec), (beyond,) if differs else ()
    )


def _check(spec: RunSpec) -> None:
    edges = edges_of(spec)
    if spec.clients % edges:
        raise flag_error("edges", edges, f"a divisor of --clients={spec.clients}")
    check_radii(spec)
    if spec.adapters is not None and spec.adapters.kind in ("stack", "svd"):
        reason = "an average at each edge and one in the cloud"
        allowed = "avg or freeze with --algorithm=hierarchical"
        raise flag_error("adapter_averaging", spec.adapters.kind, allowed, reason=reason)


EDGES = Option(
    "edges",
    2,
    "E, edge servers between clients and the cloud; client n of C belongs to edge n * E // C.",
    "a whole number from 1 to 1000000",
    lambda value: 1 <= value <= 1_000_000,
)
CLOUD_EVERY = Option(
    "cloud_every",
    1,
    "Periods of --aggregate_every rounds, each ending with averages at the edges, from one average "
    "of the cloud to the next.",
    "a whole number from 1 to 1000000",
    lambda value: 1 <= value <= 1_000_000,
)
ALGORITHM = Algorithm(
    exchange,
    # All clients of an edge are in its averages: none can be left out.
    uses=(SPLIT | BOUND) - OUTAGE - DEADLINE,
    options=(EDGES, CLOUD_EVERY, SERVER_AT, EDGE_RADIUS_M, BACKHAUL_BPS, BACKHAUL_JOULES_PER_BIT),
    columns=columns,
    row=row,
    cells=cells,
    clock=clock,
    run_round=run_round,
    compress_by_default=True,
    all_take_part=True,
    init_server=_init_server,
    init_state=_init_state,
    server_of=server_of,
    server_of_client=_server_of_client,
    drift=_drift,
    check=_check,
)
