"""Algorithms that come to the same where they must, and differ where they do."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from engine import reference
from helpers import assert_close, assert_equal, setup, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.algorithms.sfl_v1 import server_of
from jfedsl.algorithms.sfl_v2 import run_client_by_client
from jfedsl.engine.averaging import joined
from jfedsl.engine.state import State
from jfedsl.keys import Purpose, Stage, fold
from jfedsl.models import layers
from jfedsl.run.assemble import Experiment

CUTS = [slow("mlp", "none", "dense1"), ("mlp", "group", "dense2"), ("cnn", "none", "pool1")]


def whole(e: Experiment, state: State) -> Any:
    """Parameters of the whole model."""
    return jax.jit(partial(joined, e.spec, e.data.partition))(state).params


def trained(rounds: int = 1, **changes: Any) -> tuple[Experiment, State, list[Any]]:
    """A run of some rounds with its records."""
    e, state, run = setup(**changes)
    records = []
    for _ in range(rounds):
        state, record = run(state)
        records.append(record)
    return e, state, records


@pytest.mark.parametrize(("model", "norm", "cut"), CUTS)
def test_fedavg_with_one_step_is_large_batch_sgd_is_fedsl_at_any_cut(model, norm, cut):
    same = {"model": model, "norm": norm, "clients": 3}
    e, state, (record,) = trained(algorithm="fedavg", **same)
    split, other, _ = trained(cut=cut, **same)
    assert_close(whole(e, state), whole(split, other), rtol=1e-4, atol=1e-6)
    # Large batches: the clients' own, side by side.
    initial = e.initial
    images, labels = zip(*(reference.batch(e, n, 0) for n in range(3)), strict=True)

    def loss(params):
        x = jnp.concatenate(images)
        logits, _ = layers.apply(e.spec.model, params, initial.stats, x, True)
        y = jnp.concatenate(labels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradient = jax.jit(jax.grad(loss))(initial.params)
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, initial.params, gradient)
    assert_close(whole(e, state), expected, rtol=1e-4, atol=1e-6)
    sent = sum(w.size for w in jax.tree.leaves(initial.params)) * 4
    assert set(record.sent) == {"model_up", "model_down"}
    np.testing.assert_array_equal(record.sent["model_up"], [sent] * 3)
    np.testing.assert_array_equal(record.sent["model_down"], [sent] * 3)


@pytest.mark.parametrize("algorithm", [slow("sfl_v1"), "sfl_v2", "sl", slow("fedavg")])
def test_with_one_client_all_are_centralized(algorithm):
    alone = {"clients": 1, "local_steps": 3, "momentum": 0.9}
    e, state, _ = trained(2, algorithm="centralized", **alone)
    other, after, _ = trained(2, algorithm=algorithm, **alone)
    assert_close(whole(other, after), whole(e, state), rtol=1e-4, atol=1e-6)


def test_fedavg_is_sfl_v1_but_for_what_is_sent():
    same = {
        "clients": 4, "participants": 3, "local_steps": 2, "aggregate_every": 2,
        "partition": "dirichlet", "aggregation": "examples",
    }  # fmt: skip
    e, state, records = trained(3, algorithm="fedavg", **same)
    split, after, others = trained(3, algorithm="sfl_v1", cut="dense1", **same)
    assert_close(whole(split, after), whole(e, state), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(others[2].losses, records[2].losses, rtol=1e-4)
    assert (others[0].sent["smashed_up"] > 0).all() and "smashed_up" not in records[0].sent
    assert others[1].sent["model_up"][0] < records[1].sent["model_up"][0]


def test_copies_part_within_a_period_and_meet_at_its_end():
    _, state, run = setup(algorithm="sfl_v1", aggregate_every=2, clients=3)
    kernel = lambda s: s.server.params[0]["Dense_0"]["kernel"]  # noqa: E731
    state, _ = run(state)
    assert (np.ptp(kernel(state), axis=0) > 0).any()
    state, _ = run(state)
    assert (np.ptp(kernel(state), axis=0) == 0).all()


@pytest.mark.parametrize("policy", ["keep", "average", slow("reset")])
def test_moments_of_copies_follow_the_policy(policy):
    changes = {"client_optimizer_state": policy, "momentum": 0.9, "clients": 3}
    _, state, _ = trained(algorithm="sfl_v1", **changes)
    moments = [x for x in jax.tree.leaves(state.server.optimizer) if x.ndim > 1]
    spread, size = (max(float(f(x)) for x in moments) for f in (
        lambda x: np.ptp(x, axis=0).max(), lambda x: np.abs(x).max(),
    ))  # fmt: skip
    assert (spread > 0) == (policy == "keep") and (size > 0) == (policy != "reset")


def test_the_server_of_sfl_v2_steps_on_client_after_client_in_a_new_order():
    e, state, run = setup(algorithm="sfl_v2", clients=4, local_steps=1)
    spec, rate, orders = e.spec, 0.05, []
    model, stats = spec.model, e.initial.stats

    @jax.jit
    def forward(params, images):
        return layers.apply(model[: spec.cut], params, stats[: spec.cut], images, True)[0]

    @jax.jit
    @jax.grad
    def slope(params, smashed, labels):
        logits, _ = layers.apply(model[spec.cut :], params, stats[spec.cut :], smashed, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    for number in range(2):
        server, after_round = state.server.params, run(state)[0]
        key = fold(e.key, Purpose.EXCHANGE, number, 0)
        order_key = fold(key, 4, Stage.SERVER_ORDER)
        orders.append(jax.random.permutation(order_key, 4).tolist())
        for n in orders[-1]:
            images, labels = reference.batch(e, n, number)
            params = state.clients.params
            smashed = forward(jax.tree.map(lambda w, n=n: w[n], params), images)
            gradient = slope(server, smashed, labels)
            server = jax.tree.map(lambda w, g: w - rate * g, server, gradient)
        assert_close(after_round.server.params, server, rtol=1e-4, atol=1e-6)
        state = after_round
    assert orders[0] != orders[1]


def test_the_server_of_sfl_v2_serves_one_client_after_another_and_averages_their_parts():
    e, state, (record,) = trained(algorithm="sfl_v2", clients=3, local_steps=3)
    model, cut, stats = e.spec.model, e.spec.cut, e.initial.stats
    params, parts = e.initial.params, {}

    def loss(params, images, labels):
        logits, _ = layers.apply(model, params, stats, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    slope, server = jax.jit(jax.value_and_grad(loss)), params[cut:]
    for i, client in enumerate(record.participants.tolist()):
        client_part = params[:cut]
        for step in range(3):
            images, labels = reference.batch(e, client, step)
            value, gradient = slope(client_part + server, images, labels)
            np.testing.assert_allclose(record.losses[step, i], value, rtol=1e-4)
            stepped = jax.tree.map(lambda w, g: w - 0.05 * g, client_part + server, gradient)
            client_part, server = stepped[:cut], stepped[cut:]
        parts[client] = client_part
    mean = jax.tree.map(lambda *rows: sum(rows) / 3, *parts.values())
    assert_close(state.server.params, server, rtol=1e-4, atol=1e-6)
    assert_close(state.aggregator.params, mean, rtol=1e-4, atol=1e-6)
    assert sorted(parts) == [0, 1, 2]


def test_with_one_local_step_both_orders_of_sfl_v2_are_the_same_to_the_bit():
    e, state, run = setup(
        algorithm="sfl_v2", clients=4, dropout_rate=0.2, cut_gradient_bits=8, norm="batch"
    )
    by_client = jax.jit(partial(run_client_by_client, e.spec))
    for _ in range(2):
        other, served = by_client(e.data, e.key, state)
        state, record = run(state)
        assert_equal(jax.tree.leaves(other), jax.tree.leaves(state))
        assert_equal(served.losses, record.losses[:, served.participants])


@pytest.mark.parametrize(
    "changes",
    [
        slow({"prune_kind": "channel", "prune_rate": (0.5, 0, 0.5, 0), "client_gradient_bits": 8}),
        {
            "prune_kind": "mask", "prune_score": "random", "model_up": "feedback(topk(0.3))",
            "network": "macro_cell", "outage_snr_db": 12.0, "participants": 3,
        },
    ],
    ids=["channels", "outage"],
)  # fmt: skip
def test_clients_of_sfl_v2_depend_on_each_other_by_the_server_alone(changes: dict[str, Any]):
    """With a server that does not learn clients come to the same in either order."""
    same = {
        "algorithm": "sfl_v2", "clients": 4, "local_steps": 3, "aggregate_every": 2,
        "server_learning_rate": 0.0, "dropout_rate": 0.2, "cut_gradient": "feedback(topk(0.5))",
        **changes,
    }  # fmt: skip
    _, state, records = trained(3, **same)
    _, other, others = trained(3, server_order="exchange", **same)
    assert_close(state.clients, other.clients)
    assert_close(state.aggregator, other.aggregator)
    assert_equal(state.participants, other.participants)
    for record, beside in jax.device_get(list(zip(records, others, strict=True))):
        at = np.argsort(beside.participants)[np.argsort(np.argsort(record.participants))]
        assert_equal(record.participants, beside.participants[at])
        assert_equal(record.has_current_model, beside.has_current_model[at])
        assert_equal(record.took_part, beside.took_part[:, at])
        assert_equal(record.sent["cut_gradient_down"], beside.sent["cut_gradient_down"][:, at])
        assert_equal(record.sent["model_up"], beside.sent["model_up"][at])
        assert_close(record.losses, beside.losses[:, at])
        tried = record.sent["smashed_up"] > 0
        assert_equal(tried[0], record.has_current_model)
        if record.conditions is not None:
            there = record.conditions.reachable
            assert_equal(there, beside.conditions.reachable[at])
            # Who was out of reach is passed over, where side by side it tries again.
            assert_equal(tried[1:], np.tile(record.has_current_model & there, (2, 1)))


def test_a_deadline_is_easier_to_meet_with_the_band_to_oneself():
    wireless = {"algorithm": "sfl_v2", "clients": 4, "local_steps": 2, "network": "macro_cell"}
    record = jax.device_get(trained(deadline_s=1e-9, **wireless)[2][0])
    assert not record.took_part.any()
    now, bits = record.conditions, 8.0 * record.sent["smashed_up"][0]
    assert (now.lone_up_rate > now.up_rate).all() and (now.lone_down_rate > now.down_rate).all()
    alone, shared = (now.forward + bits / rate for rate in (now.lone_up_rate, now.up_rate))
    between = float(alone.max() + shared.max()) / 2
    record = jax.device_get(trained(deadline_s=between, **wireless)[2][0])
    assert_equal(record.took_part, np.stack([shared <= between, alone <= between]))
    assert record.took_part[1].all() and not record.took_part[0].all()


@pytest.mark.parametrize("changes", [{"algorithm": "sl"}, {"algorithm": "sfl_v2"}], ids=str)
def test_turns_come_in_a_new_order(changes: dict[str, str]):
    _, _, records = trained(6, clients=4, local_steps=2, **changes)
    orders = {tuple(record.participants.tolist()) for record in records}
    assert len(orders) > 1 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_a_centralized_round_is_participants_times_local_steps_over_the_union():
    e, state, records = trained(
        2, algorithm="centralized", clients=4, participants=3, local_steps=2, partition="dirichlet"
    )
    assert e.spec.clients == 1 and records[0].losses.shape == (6, 1)
    split, _, _ = setup(clients=4, partition="dirichlet")
    one = e.data.partition
    assert_equal((e.data.images, e.data.labels), (split.data.images, split.data.labels))
    assert one.starts.tolist() == [0] and one.sizes.tolist() == [split.data.labels.size]
    assert split.data.labels.size == split.data.partition.sizes.sum()
    assert all(record.sent == {} for record in records)
    assert int(state.clients.batches_seen[0]) == 12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns(algorithm):
    _, _, records = trained(
        12, algorithm=algorithm, clients=4, local_steps=4, momentum=0.5, batch_size=16
    )
    assert records[-1].train_loss < 0.6 * records[0].train_loss


def test_the_mean_of_copies_is_weighted_as_the_models():
    e, state, _ = trained(
        algorithm="sfl_v1", clients=3, aggregate_every=2, partition="dirichlet",
        aggregation="examples",
    )  # fmt: skip
    sizes = np.asarray(e.data.partition.sizes, np.float64)
    copies = np.asarray(state.server.params[0]["Dense_0"]["kernel"], np.float64)
    mean = np.tensordot(sizes / sizes.sum(), copies, 1)
    kernel = server_of(e.spec, e.data.partition, state).params[0]["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_down": "qsgd(4)"},
        {"prune_kind": "mask", "prune_score": "random", "prune_rate": (0.3,)},
    ],
    ids=str,
)
def test_in_turns_all_hold_the_aggregators_model_after_every_round(changes):
    e, state, _ = trained(3, algorithm="sl", clients=3, aggregate_every=2, **changes)
    assert_close(whole(e, state), state.aggregator.params + state.server.params)


def test_turns_are_sequential_sgd():
    e, state, (record,) = trained(algorithm="sl", clients=3, local_steps=2)
    model, params = e.spec.model, e.initial.params

    def loss(params, images, labels):
        logits, _ = layers.apply(model, params, e.initial.stats, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    slope = jax.jit(jax.value_and_grad(loss))
    for i, client in enumerate(record.participants.tolist()):
        for step in range(2):
            value, gradient = slope(params, *reference.batch(e, client, step))
            np.testing.assert_allclose(record.losses[step, i], value, rtol=1e-4)
            params = jax.tree.map(lambda w, g: w - 0.05 * g, params, gradient)
    assert_close(whole(e, state), params, rtol=1e-4, atol=1e-6)
