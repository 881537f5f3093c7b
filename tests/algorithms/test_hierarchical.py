"""Averages at edge servers and in the cloud, and what they cost."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_close, assert_equal, plain, setup, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config.canonical import refuse_idle
from jfedsl.engine.averaging import joined
from jfedsl.engine.drift import Drift
from jfedsl.engine.edges import by_edge, of_one_edge, to_rows
from jfedsl.engine.rounds import RoundRecord
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.run.clock import costs_of
from jfedsl.run.plots.timeline import segments
from jfedsl.run.rows import Totals, rows_of
from jfedsl.run.storage.metrics import STREAMS

CLIENTS, EDGES = 4, 2
NAME = "hierarchical"
UNEQUAL = {"partition": "quantity", "aggregation": "examples", "momentum": 0.9}
SMASHED, LABELS = 4 * 8 * 256, 8 * 4 // 8  # bytes of a message of 8 examples
RATE = 1e7  # of a backhaul, bit/s
LINK = {"backhaul_bps": RATE, "backhaul_joules_per_bit": 1e-6}


PRUNED = {"prune_kind": "mask", "dropout_rate": 0.2, "aggregate_every": 2, **UNEQUAL}
COMPRESSED = {
    "prune_score": "taylor", "cut_gradient_bits": 8, "model_up": "feedback(topk(0.5))",
    "model_down": "uniform(8)", "local_steps": 2, **PRUNED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("at", "changes"), [("edge", PRUNED), slow("cloud", COMPRESSED), slow("edge", COMPRESSED)]
)
def test_one_edge_and_one_average_are_fedsl_to_the_bit(at: str, changes: dict[str, Any]) -> None:
    e, state, run = setup(algorithm=NAME, edges=1, cloud_every=1, server_at=at, **changes)
    _, other, alone = setup(algorithm="fedsl", **changes)
    for _ in range(4):
        (state, record), (other, expected) = run(state), alone(other)
        passed = {k: v for k, v in record.sent.items() if not k.startswith("backhaul")}
        assert_equal(record.replace(sent=passed), expected)
    assert_equal(state.clients, other.clients)
    assert_equal(state.aggregator, other.aggregator)
    server = e.spec.algorithm.server_of(e.spec, e.data.partition, state)
    assert_equal(server, other.server)
    assert_equal(
        state.algorithm_state.params, jax.tree.map(lambda x: x[None], other.aggregator.params)
    )


def mean(rows: Any, weights: np.ndarray) -> Any:
    """The weighted mean of arrays `[n, ...]` in float64."""
    share = weights / weights.sum()
    return jax.tree.map(lambda x: np.tensordot(share, np.asarray(x, np.float64), 1), rows)


def repeated(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), tree)


def test_edges_average_their_clients_and_the_cloud_averages_the_edges() -> None:
    """Against fedsl that never averages, and means in float64."""
    e, state, run = setup(algorithm=NAME, edges=EDGES, cloud_every=2, **UNEQUAL)
    _, other, alone = setup(algorithm="fedsl", aggregate_every=9, **UNEQUAL)
    sizes = np.asarray(e.data.partition.sizes, np.float64)
    assert len(set(sizes)) > 1
    of_edge = sizes.reshape(EDGES, -1)
    for number in range(4):
        (state, record), (other, expected) = run(state), alone(other)
        assert_close(record.losses, expected.losses)
        assert_close(state.server, other.server)
        rows = by_edge(e.spec, other.clients.params)
        edges = [mean(jax.tree.map(lambda x, i=i: x[i], rows), of_edge[i]) for i in range(EDGES)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *edges)
        whole = mean(stacked, of_edge.sum(axis=1))
        if number % 2:
            stacked = repeated(whole, EDGES)
        held = jax.tree.map(lambda x: np.repeat(x, CLIENTS // EDGES, axis=0), stacked)
        assert_close(state.clients.params, held)
        assert_close(state.algorithm_state.params, stacked)
        merged = joined(e.spec, e.data.partition, state).params
        assert_close(merged[: e.spec.cut], whole, rtol=1e-4)
        other = other.replace(clients=other.clients.replace(params=state.clients.params))


def test_edges_with_servers_are_runs_of_their_own_between_averages_of_the_cloud() -> None:
    changes = {"local_steps": 2, "aggregate_every": 2, "dropout_rate": 0.2, **UNEQUAL}
    e, state, run = setup(algorithm=NAME, edges=EDGES, cloud_every=2, server_at="edge", **changes)
    alone = of_one_edge(e.spec)._replace(algorithm=ALGORITHMS["fedsl"], clients=CLIENTS // EDGES)
    of_edge = jax.jit(partial(alone.algorithm.run_round, alone, e.data, e.key))
    rows = by_edge(e.spec, (state.clients, state.participants, state.has_current_model))
    runs = [
        state.replace(
            clients=jax.tree.map(lambda x, i=i: x[i], rows[0]), participants=rows[1][i],
            has_current_model=rows[2][i], algorithm_state=None,
            server=jax.tree.map(lambda x, i=i: x[i], state.server),
        )
        for i in range(EDGES)
    ]  # fmt: skip
    for number in range(4):
        state, record = run(state)
        parts = [of_edge(one) for one in runs]
        runs = [part[0] for part in parts]
        losses = np.concatenate([part[1].losses for part in parts], axis=1)
        assert_close(record.losses, losses)
        both = jax.tree.map(lambda *x: np.stack(x), *[(one.clients, one.server) for one in runs])
        if number < 3:
            assert_close(by_edge(e.spec, state.clients).params, both[0].params)
            assert_close(state.server, both[1])
    sizes = np.asarray(e.data.partition.sizes, np.float64).reshape(EDGES, -1).sum(axis=1)
    server = mean(both[1].params, sizes)
    assert_close(state.server.params, repeated(server, EDGES))
    assert_close(state.server.optimizer, both[1].optimizer)  # moments are kept
    clients = mean(jax.tree.map(lambda x: x[:, 0], both[0].params), sizes)
    assert_close(state.clients.params, repeated(clients, CLIENTS))
    whole = joined(e.spec, e.data.partition, state).params
    assert_close(whole[e.spec.cut :], server)


def test_rows_go_to_their_edges_and_back_whatever_their_order() -> None:
    e, _, _ = setup(algorithm=NAME, edges=2, prune_kind="channel", prune_rate=(0.0, 0.5, 0.5, 0.0))
    order = np.concatenate(e.spec.pruner.groups)
    assert order.tolist() != sorted(order.tolist())
    assert sorted(map(sorted, by_edge(e.spec, order).tolist())) == [[0, 1], [2, 3]]
    assert_equal(to_rows(e.spec, by_edge(e.spec, order)), order)


def priced(rounds: int, **changes: Any) -> tuple[Any, RoundRecord, Any]:
    """The first rounds of a run with their costs, `[rounds, ...]`."""
    settings = {"local_steps": 2, "network": "macro_cell", "edges": EDGES, **LINK}
    e = build(plain(algorithm=NAME, **(settings | changes)))
    record = e.rounds(rounds)(e.data, e.key, e.init(), rounds)[1]
    return e, *jax.device_get((record, costs_of(e)(e.data, record)))


def seconds_of(e: Any, record: RoundRecord) -> float:
    """Seconds of a round by the formulas of `edge_cost`."""
    now, radio = record.conditions, e.spec.radio
    up, down = (8.0 * record.sent[s] for s in ("smashed_up", "cut_gradient_down"))
    server = radio.flop_counts.server / radio.network.server_flops

    def slowest(seconds: np.ndarray) -> np.ndarray:
        return seconds.reshape(EDGES, -1).max(axis=1)

    first = [slowest(now.forward + bits / now.up_rate) for bits in up]
    second = [slowest(now.backward + bits / now.down_rate) for bits in down]
    if e.spec.options["server_at"] == "edge":
        seconds = (sum(first) + sum(second)).max() + len(up) * CLIENTS / EDGES * server
    else:
        legs = zip([*first, *second], [*up, *down], strict=True)
        relayed = [s + bits.reshape(EDGES, -1).sum(axis=1) / RATE for s, bits in legs]
        seconds = sum(leg.max() for leg in relayed) + len(up) * CLIENTS * server
    for way, rate in (("down", now.down_rate), ("up", now.up_rate)):
        seconds += (8.0 * record.sent[f"model_{way}"] / rate).max()
        seconds += 8.0 * record.sent[f"backhaul_model_{way}"][0] / RATE
    return float(seconds)


@pytest.mark.parametrize("at", ["cloud", "edge"])
def test_what_passes_the_backhauls_counts_and_takes_time(at: str) -> None:
    """Bytes and joules by hand, seconds by the formulas."""
    e, record, cost = priced(5, server_at=at, cloud_every=2, aggregate_every=2)
    rows, _ = rows_of(e.spec, record, cost, range(5), Totals())
    sizes = [4 * sum(w.size for w in jax.tree.leaves(layer)) for layer in e.initial.params]
    model = sum(sizes[: e.spec.cut]) if at == "cloud" else sum(sizes)
    relayed = 2 * CLIENTS if at == "cloud" else 0
    for n, row in enumerate(rows):
        up = relayed * (SMASHED + LABELS) + (EDGES * model if n % 4 == 3 else 0)
        down = relayed * SMASHED + (EDGES * model if n % 4 == 0 else 0)
        assert [row[f"backhaul_{way}_bytes"] for way in ("up", "down")] == [up, down]
        bits = 8 * (up + down)
        assert row["backhaul_joules"] == pytest.approx(1e-6 * bits)
        assert row["simulated_backhaul_seconds"] == pytest.approx(bits / EDGES / RATE)
        on_air = sum(row[f"{stream}_bytes"] for stream in STREAMS)
        assert row["cumulative_bytes"] == on_air + (rows[n - 1]["cumulative_bytes"] if n else 0)
        of_round, paid = jax.tree.map(lambda x, n=n: x[n], (record, cost))
        np.testing.assert_allclose(row["simulated_seconds"], seconds_of(e, of_round), rtol=1e-5)
        parts = paid.compute + paid.uplink + paid.downlink + paid.waiting + paid.server
        np.testing.assert_allclose(parts, paid.seconds, rtol=1e-4)
        for client in range(CLIENTS):
            drawn = sum(segment.seconds for segment in segments(paid, client))
            np.testing.assert_allclose(drawn, paid.seconds, rtol=1e-4)


@pytest.mark.parametrize("allocation", ["equal", "minmax"])
def test_every_edge_has_the_band_and_a_radius_to_itself(allocation: str) -> None:
    moves = {"device_speed": 10.0, "mobility_step_s": 30.0}
    e, record, _ = priced(2, allocation=allocation, edge_radius_m="50,1000", **moves)
    gain = np.asarray(e.data.deployment.hardware.gain)
    assert gain[: CLIENTS // EDGES].min() > 10 * gain[CLIENTS // EDGES :].max()
    # The share of the band that gives a rate of the downlink.
    shares = record.conditions.down_rate[1] / record.conditions.lone_down_rate[1]
    of_edges = by_edge(e.spec, shares)
    np.testing.assert_allclose(of_edges.sum(axis=1), 1, rtol=1e-5)
    assert np.allclose(of_edges, EDGES / CLIENTS) == (allocation == "equal")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"edges": 3}, "--edges must be a divisor of --clients=4, not 3"),
        ({"edges": 0}, "--edges must be a whole number from 1 to 1000000, not 0"),
        ({"server_at": "home"}, "--server_at must be cloud or edge, not home"),
        ({"edge_radius_m": "99,200,300", "network": "macro_cell"}, "one value or --edges=2 values"),
        ({"edge_radius_m": "10", "network": "macro_cell"}, "numbers above 35, the least distance"),
        ({"edge_radius_m": "100", "network": "wideband"}, "which has no path loss; remove it"),
        ({"backhaul_bps": 1e6}, "--backhaul_bps=1000000.0 has no effect with --network=none"),
        ({"participants": 2}, "--participants must be --clients=4 with --algorithm=hierarchical"),
        ({"cut": "dense1,dense2,dense1,dense2"}, "--cut"),
        ({"outage_snr_db": 5.0, "network": "macro_cell"}, "--outage_snr_db=5.0 has no effect with"),
        ({"deadline_s": 1.0, "network": "macro_cell"}, "--deadline_s=1.0 has no effect with"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_cannot_do_is_refused_with_one_line(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        config = plain(algorithm=NAME, **changes)
        refuse_idle([config])
        build(config)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_how_long_clients_drift_apart() -> None:
    """Within an edge for its period, between edges for the cloud's."""
    periods = {"aggregate_every": 3, "cloud_every": 2, "aggregation": "equal"}
    e, _, _ = setup(algorithm=NAME, edges=2, server_at="edge", **periods)
    sizes = np.array([1, 3, 2, 2])
    drift = partial(e.spec.algorithm.drift, e.spec._replace(aggregation="examples"))
    assert drift(sizes) == Drift(6, 3, 0.75, True, ())
    assert e.spec.algorithm.drift(e.spec, sizes).edge_weight == 0.5
    alone = e.spec._replace(options={**e.spec.options, "edges": 1})
    assert e.spec.algorithm.drift(alone, sizes) == Drift(3, 3)
    differ = e.spec._replace(pruner=e.spec.pruner._replace(mask_group=np.arange(4)))
    assert e.spec.algorithm.drift(differ, sizes).beyond[0].startswith("edges=2 (")
