"""Start and end of a period: who gets what, what is averaged, what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, setup, slow
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.engine.averaging import weighted_mean
from jfedsl.engine.client_memory import memories


@given(st.integers(1, 6), st.integers(0, 2**20))
def test_masked_mean_equals_a_loop_over_weights(clients, seed):
    rng = np.random.default_rng(seed)
    x, old = rng.normal(size=(clients, 3, 2)), rng.normal(size=(3, 2))
    mask, share = rng.random((clients, 3, 2)) < 0.5, rng.random(clients)
    expected = old.copy()
    for i, j in np.ndindex(3, 2):
        kept = mask[:, i, j]
        if kept.any():
            expected[i, j] = (share[kept] * x[kept, i, j]).sum() / share[kept].sum()
    to_array = lambda a: jnp.asarray(a, jnp.float32)  # noqa: E731
    actual = weighted_mean(to_array(x), to_array(share), jnp.asarray(mask), to_array(old))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    plain = weighted_mean(to_array(x), to_array(share))
    np.testing.assert_allclose(plain, np.average(x, axis=0, weights=share), rtol=1e-4, atol=1e-5)


def rows(tree, n):
    return jax.tree.map(lambda x: x[n], tree)


def run_rounds(state, run, count):
    states, records = [], []
    for _ in range(count):
        state, record = run(state)
        states.append(state)
        records.append(record)
    return states, records


def test_clients_part_within_a_period_and_meet_at_its_end():
    _, state, run = setup(aggregate_every=3, local_steps=2)
    states, records = run_rounds(state, run, 4)
    same = [not differs(rows(s.clients.params, 0), rows(s.clients.params, 1)) for s in states]
    assert same == [False, False, True, False]
    assert [bool(r.sent["model_down"].any()) for r in records] == [True, False, False, True]
    assert [bool(r.sent["model_up"].any()) for r in records] == [False, False, True, False]
    assert_equal(rows(states[2].clients.params, 0), states[2].aggregator.params)


def test_absent_clients_neither_compute_nor_send_nor_change():
    experiment, state, run = setup(clients=7, participants=3, aggregate_every=2, momentum=0.9)
    kept = lambda state: memories(experiment.spec, state)  # noqa: E731
    seen = set()
    for period in range(4):
        before = kept(state)
        (_, state), records = run_rounds(state, run, 2)
        after = kept(state)
        ids = records[0].participants.tolist()
        assert ids == sorted(set(ids)) and ids == records[1].participants.tolist()
        seen.add(tuple(ids))
        for n in range(7):
            step = int(after.batches_seen[n] - before.batches_seen[n])
            changed = differs(rows(after, n), rows(before, n))
            moved = differs(rows(after.optimizer, n), rows(before.optimizer, n))
            expected = (2, True, True) if n in ids else (0, False, False)
            assert (step, changed, moved) == expected, period
    assert len(seen) > 1, "participants must be drawn anew"


@pytest.mark.parametrize("score", [slow("magnitude"), "taylor", "random"])
def test_masks_stay_within_a_period_and_move_between_periods(score):
    _, state, run = setup(
        aggregate_every=2, prune_kind="mask", prune_rate=(0.3,), prune_score=score, clients=3,
        client_learning_rate=0.5,
    )  # fmt: skip
    states, records = run_rounds(state, run, 4)
    masks = [s.clients.masks for s in (state, *states)]
    # What is tested at the end of a period is what was trained in it.
    assert_equal(masks[1], masks[0])
    assert_equal(masks[2], masks[0])
    assert differs(masks[3], masks[2])
    assert_equal(masks[4], masks[3])
    # 256 * 64 weights: the rate is met to one of them, by every client, always.
    assert all(r.pruned_fraction == np.float32(round(0.3 * 64 * 256) / (64 * 256)) for r in records)
    equal = not differs(rows(masks[3], 0), rows(masks[3], 1))
    assert equal == (score != "random"), "only random masks differ by client"


def test_weights_pruned_by_all_keep_their_last_dense_value_and_can_come_back():
    _, state, run = setup(
        prune_kind="mask", prune_rate=(0.5,), client_learning_rate=1.0, partition="shards"
    )
    kernel = lambda tree: np.asarray(tree[1]["Dense_0"]["kernel"])  # noqa: E731
    start, returned, gone_before = state, 0, np.zeros((64, 256), bool)
    for _ in range(6):
        before = state
        state, _ = run(state)
        gone = ~kernel(rows(state.clients.masks, 0))
        returned += int((gone_before & ~gone).sum())
        gone_before = gone
        np.testing.assert_array_equal(
            kernel(state.aggregator.params)[gone], kernel(before.aggregator.params)[gone]
        )
    assert returned > 0
    assert differs(kernel(start.aggregator.params), kernel(state.aggregator.params))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("optimizer", ["sgd", slow("adam"), "adamw"])
def test_pruned_weights_and_their_moments_are_frozen_and_counts_advance(optimizer):
    _, state, run = setup(
        prune_kind="mask", prune_rate=(0.4,), optimizer=optimizer, momentum=0.9, weight_decay=0.1,
        aggregate_every=3, local_steps=2,
    )  # fmt: skip
    first, _ = run(state)
    second, _ = run(first)
    masks = jax.tree.leaves(first.clients.masks)
    shapes = {m.shape: m for m in masks}
    assert_pruned_equal = lambda a, b, m: np.testing.assert_array_equal(a[~m], b[~m])  # noqa: E731
    jax.tree.map(
        assert_pruned_equal, second.clients.params, first.clients.params, first.clients.masks
    )
    moments = 0
    for a, b, start in zip(
        *(jax.tree.leaves(s.clients.optimizer) for s in (second, first, state)), strict=True
    ):
        if a.shape in shapes:
            assert_pruned_equal(a, b, shapes[a.shape])
            assert not np.asarray(a)[~shapes[a.shape]].any() and differs(a, b)
            moments += 1
        else:
            assert (b == start + 2).all() and (a == start + 4).all()
    assert moments == len(masks) * (1 if optimizer == "sgd" else 2)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("policy", ["keep", "reset", "average"])
def test_client_optimizer_state_at_the_start_of_a_period(policy):
    from jfedsl.engine.period import start_period

    experiment, state, run = setup(
        optimizer="adam", client_optimizer_state=policy, clients=3, local_steps=2,
        prune_kind="mask", prune_rate=(0.3,), aggregation="examples", partition="quantity",
        quantity_alpha=9.0,
    )  # fmt: skip
    after, record = run(state)
    started, down = start_period(experiment.spec, experiment.key, after)
    started_state, fresh = started.clients.optimizer, state.clients.optimizer
    if policy == "reset":
        assert_equal(started_state, fresh)
    if policy == "keep":
        assert_equal(started_state, after.clients.optimizer)
        assert differs(rows(started_state, 0), rows(started_state, 1))
    if policy == "average":
        assert_equal(rows(started_state, 0), rows(started_state, 1))
        assert (started_state[0].count == 2).all() and differs(started_state, fresh)
        model = setup(optimizer="adam", clients=3, prune_kind="mask", prune_rate=(0.3,))
        plain_up = model[2](model[1])[1].sent["model_up"]
        whole = 3 * plain_up + 4
        assert (record.sent["model_up"] == whole).all(), "weights, two moments, a step counter"
        bitmap = 64 * 256 // 8
        assert (down == whole + bitmap).all()


@pytest.mark.usefixtures("standard_promotion")
def test_average_of_optimizer_states_is_that_of_the_weights():
    experiment, state, run = setup(
        optimizer="adam", client_optimizer_state="average", clients=3, aggregate_every=2
    )
    first, _ = run(state)
    before, _ = run(first)
    mu = before.aggregator.optimizer[0].mu
    # A full period in one call leaves only the mean; recompute it from the clients' own moments.
    from jfedsl.engine.averaging import merge
    from jfedsl.engine.state import weights

    share = weights(experiment.spec, experiment.data.partition, first.participants)
    merged = merge(experiment.spec, first.aggregator, first.clients, share)
    expected = jax.tree.map(lambda x: x.mean(0), first.clients.optimizer[0].mu)
    assert_close(merged.optimizer[0].mu, expected)
    assert differs(mu, expected)


@pytest.mark.parametrize("policy", ["aggregate", "local"])
def test_client_statistics_are_shared_or_stay(policy):
    _, state, run = setup(model="cnn", norm="batch", batch_norm_statistics=policy, clients=3)
    (after, _), _ = run_rounds(state, run, 2)
    first, second = rows(after.clients.stats, 0), rows(after.clients.stats, 1)
    assert differs(first, second) == (policy == "local")
    if policy == "aggregate":
        assert_equal(first, after.aggregator.stats)


def test_quantized_upload_carries_the_update_against_the_model_received():
    _, state, run = setup(model_bits=16, clients=3, bucket_size=0)
    exact = setup(clients=3)[2](state)
    after, record = run(state.replace(clients=state.clients))
    # 16 bits over the range of an update: each weight within one step of it.
    for sent, dense, old in zip(
        *(jax.tree.leaves(s.aggregator.params) for s in (after, exact[0], state)), strict=True
    ):
        update = np.abs(dense - old).max()
        assert np.abs(sent - dense).max() <= 2 * 3 * update / (2**16 - 1) + 1e-6
    entries = 64 * 256 + 256
    assert (record.sent["model_up"] == entries * 2 + 2 * 8).all(), "16 bits each, 64 a leaf"
    assert (exact[1].sent["model_up"] == entries * 4).all()
