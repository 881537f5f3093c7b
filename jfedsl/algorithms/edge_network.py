"""The network of edge servers: a cell and a backhaul to the cloud for each."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl import per_client
from jfedsl.engine.algorithm import Option
from jfedsl.engine.clocks import facts
from jfedsl.engine.edges import cloud_period, edge_of_clients, edges_of
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import RunSpec, State
from jfedsl.engine.streams import CUT_GRADIENT, SMASHED
from jfedsl.engine.traffic import FLOAT_BYTES
from jfedsl.errors import flag_error
from jfedsl.wireless.cells import Cells
from jfedsl.wireless.channel import NEAREST
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.edge_cost import Backhaul, cost_over_edges
from jfedsl.wireless.network import NETWORKS

_UP, _DOWN = "backhaul_model_up", "backhaul_model_down"  # of each edge, in records


def at_edges(spec: RunSpec) -> bool:
    """Whether each edge has a copy of the server's part."""
    return bool(spec.options["server_at"] == "edge")


def models_passed(spec: RunSpec, state: State) -> dict[str, Array]:
    """Bytes of models that each edge sends to the cloud and receives in a round, int32 `[E]`.

    Args:
      spec: functions and static numbers of the run.
      state: before the round.
    """
    every, size = cloud_period(spec), jnp.full(edges_of(spec), _model_bytes(spec, state), jnp.int32)
    down, up = state.round % every == 0, (state.round + 1) % every == 0
    return {_DOWN: jnp.where(down, size, 0), _UP: jnp.where(up, size, 0)}


def _model_bytes(spec: RunSpec, state: State) -> int:
    """Bytes of an edge's model on its backhaul: all entries of what is averaged, in 32 bits.

    Pruned weights are among them: the cloud ranks by all.
    """
    models, server = state.algorithm_state, state.server
    parts = [models.params, models.optimizer]
    if spec.statistics == "aggregate":
        parts.append(models.stats)
    if at_edges(spec):
        parts += [server.params, server.stats]
        if spec.client_optimizer_state == "average":
            parts.append(server.optimizer)
    entries = sum(leaf.size for leaf in jax.tree.leaves(parts))
    return FLOAT_BYTES * entries // edges_of(spec)


def columns(spec: RunSpec) -> tuple[str, ...]:
    """Columns of metrics.csv of what passes between edges and the cloud."""
    simulated = ("simulated_backhaul_seconds", "backhaul_joules")
    return ("backhaul_up_bytes", "backhaul_down_bytes", *(simulated if spec.radio else ()))


def row(spec: RunSpec, record: RoundRecord, i: int) -> dict[str, float]:
    """The values of `columns` in the round at index `i` of a record of many.

    The seconds are those in which the busiest edge sends and receives.
    """
    by_edge = {}
    for way, of_model, stream in (("up", _UP, SMASHED), ("down", _DOWN, CUT_GRADIENT)):
        count = np.array(record.sent[of_model][i], np.int64)
        if not at_edges(spec):
            of_clients = np.sum(record.sent[stream.column][i], axis=0, dtype=np.int64)
            np.add.at(count, _edge_of_participants(spec), of_clients)
        by_edge[way] = count
    row: dict[str, float] = {f"backhaul_{way}_bytes": int(n.sum()) for way, n in by_edge.items()}
    if spec.radio is None:
        return row
    bits, options = 8.0 * (by_edge["up"] + by_edge["down"]), spec.options
    return row | {
        "simulated_backhaul_seconds": float(bits.max() / options["backhaul_bps"]),
        "backhaul_joules": float(bits.sum() * options["backhaul_joules_per_bit"]),
    }


def _edge_of_participants(spec: RunSpec) -> np.ndarray:
    return edge_of_clients(spec.clients, edges_of(spec))[np.concatenate(spec.pruner.groups)]


def cells(options: Mapping[str, Any], clients: int) -> Cells | None:
    """The cells of the edges; None for one that is as that of any other algorithm."""
    edges, radii = options["edges"], _radii(options["edge_radius_m"])
    if edges == 1 and not radii:
        return None
    at = edge_of_clients(clients, edges)
    return Cells(at, np.broadcast_to(np.array(radii), edges) if radii else None)


def _radii(text: str) -> tuple[float, ...]:
    numbers = per_client.parse(text) if text else None
    return () if numbers is None else numbers.values


def check_radii(spec: RunSpec) -> None:
    """Refuses radii of another number of cells than there are edges."""
    text, edges = spec.options["edge_radius_m"], edges_of(spec)
    if len(_radii(text)) not in (0, 1, edges):
        raise flag_error("edge_radius_m", text, f"one value or --edges={edges} values")


def clock(spec: RunSpec, record: RoundRecord) -> Cost:
    """With a server at each edge these run apart; else all wait for each other."""
    bits = {name: 8.0 * record.sent[name][0].astype(jnp.float32) for name in (_DOWN, _UP)}
    backhaul = Backhaul(spec.options["backhaul_bps"], bits[_DOWN], bits[_UP])
    edge = _edge_of_participants(spec)
    return cost_over_edges(*facts(spec, record), edge, backhaul, at_edges(spec))


def _are_radii(text: str) -> bool:
    numbers = per_client.parse(text) if text else None
    if numbers is None or numbers.is_range:
        return not text
    return all(NEAREST < radius <= 1e6 for radius in numbers.values)


def _without_network(config: Any) -> str | None:
    return "with --network=none" if config.network == "none" else None


def _without_path_loss(config: Any) -> str | None:
    network = NETWORKS.get(config.network)
    if network is not None and network.radius is None:
        return f"with --network={config.network}, which has no path loss"
    return _without_network(config)


SERVER_AT = Option(
    "server_at",
    "cloud",
    "Where the server's part is with hierarchical: one in the cloud, or a copy at each edge.",
    "cloud or edge",
    lambda value: value in ("cloud", "edge"),
)
EDGE_RADIUS_M = Option(
    "edge_radius_m",
    "",
    "Radius of the edges' cells, m: one for all, or one for each, such as 300,800; empty for that "
    "of the network.",
    f"empty, or numbers above {NEAREST:g}, the least distance, up to 1e6",
    _are_radii,
    idle=_without_path_loss,
)
BACKHAUL_BPS = Option(
    "backhaul_bps",
    1e9,
    "Rate of the backhaul of each edge to the cloud in either direction, bit/s; the default is an "
    "assumption.",
    "a number above 0, up to 1e15",
    lambda value: 0 < value <= 1e15,
    idle=_without_network,
)
BACKHAUL_JOULES_PER_BIT = Option(
    "backhaul_joules_per_bit",
    5e-7,
    "Energy of a bit on a backhaul, J; the default is an assumption.",
    "a number from 0 to 1",
    lambda value: 0 <= value <= 1,
    idle=_without_network,
)
