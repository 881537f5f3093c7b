"""Compressors in the protocol: differing clients, what goes down as a change, memory, bytes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, setup, slow

from jfedsl.compression import packing
from jfedsl.compression.message import kept_only
from jfedsl.engine import client_step
from jfedsl.engine.averaging import merge_participants
from jfedsl.engine.batch import next_batch
from jfedsl.engine.client_memory import memories
from jfedsl.engine.messages import send_activation
from jfedsl.engine.period import start_period
from jfedsl.engine.state import State
from jfedsl.keys import Purpose, Stage, fold

# mlp on digits, cut after dense1: see test_traffic.
SMASHED, WEIGHTS, BIASES, LABELS = 8 * 256, 64 * 256, 256, 4


def test_clients_differ_in_bits_and_rates_under_one_compilation():
    experiment, state, _ = setup(
        dropout_rate="0.1,0.5,0.1,0.1", smashed_bits="2,8,16,32", cut_gradient_bits="4-7",
        model_up="topk([0.1,0.2,0.4,1.0])", aggregate_every=2,
    )  # fmt: skip
    rounds = experiment.rounds(1)
    for _ in range(3):
        state, record = rounds(experiment.data, experiment.key, state, 1)
    assert rounds._cache_size() == 1
    kept = np.asarray(record.sent["smashed_up"][0, 0]) - LABELS
    headers = 4 * 8  # 2048 entries in buckets of 512
    entries = np.array([0.9, 0.5, 0.9, 0.9]) * SMASHED
    expected = entries * np.array([2, 8, 16, 32]) / 8 + headers * np.array([1, 1, 1, 0])
    assert (abs(kept - expected) < 5 * 22 * np.array([2, 8, 16, 32]) / 8).all()
    down = np.asarray(record.sent["cut_gradient_down"][0, 0]) - headers
    assert sorted(np.rint(8 * down / entries).tolist()) == [4, 5, 6, 7]


def test_a_compressed_model_down_carries_the_change_since_it_last_arrived():
    experiment, state, run = setup(
        model_down="uniform(8)", clients=3, participants=2, prune_kind="mask",
        prune_rate=(0.3, 0.5, 0.0), prune_score="random", aggregate_every=1,
    )  # fmt: skip
    spec = experiment.spec
    start = jax.jit(functools.partial(start_period, spec))
    seen = np.zeros(3, bool)
    received = jax.tree.map(lambda w: np.zeros((3, *w.shape), np.float32), state.aggregator.params)
    for _ in range(5):
        opened, down = start(experiment.key, state)
        ids = np.asarray(opened.participants)
        for slot, n in enumerate(ids.tolist()):
            client = jax.tree.map(lambda x, slot=slot: x[slot], opened.clients)
            kept = spec.pruner.kept(client.masks).params
            sent = sum(int(m.sum()) for m in jax.tree.leaves(kept))
            whole = jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), state.aggregator.params, kept)
            now = jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), client.params, kept)
            if not seen[n]:
                assert_equal(now, whole)
                assert int(down[slot]) == 4 * sent + WEIGHTS // 8
            else:
                headers = 8 * (WEIGHTS // 512 + 1)
                assert int(down[slot]) == sent + headers + WEIGHTS // 8
                change = jax.tree.map(lambda w, r, n=n: w - r[n], whole, received)
                span = max(float(jnp.abs(c).max()) for c in jax.tree.leaves(change))
                assert differs(now, whole)
                assert_close(now, whole, rtol=0, atol=2.1 * span / 255)
            for old, new, mask in zip(
                *map(jax.tree.leaves, (received, client.params, kept)), strict=True
            ):
                old[n] = np.where(mask, new, old[n])
            seen[n] = True
        assert_equal(memories(spec, opened).received, received)
        state, record = run(state)
        np.testing.assert_array_equal(record.sent["model_down"], down)
    assert seen.all()


def test_what_is_averaged_are_changes_of_what_really_arrived():
    # All entries go up, so nothing but the download is lossy.
    experiment, state, run = setup(
        model_down="uniform(4)", model_up="topk(1.0)", clients=2, aggregate_every=2
    )
    spec, partition = experiment.spec, experiment.data.partition
    for _ in range(2):
        state, _ = run(state)
    before = state.aggregator.params
    merged = jax.jit(lambda s: merge_participants(spec, partition, s)[2].params)
    assert_equal(merged(state), before)  # between two periods clients hold this very model
    middle, _ = run(state)
    assert differs(middle.clients.received, jax.tree.map(lambda w: jnp.stack([w, w]), before))
    change = jax.tree.map(
        lambda w, r: (w - r).mean(axis=0), middle.clients.params, middle.clients.received
    )
    expected = jax.tree.map(jnp.add, before, change)
    assert_close(merged(middle), expected)
    assert differs(merged(middle), before)
    opened = middle.clients.received
    after, _ = run(middle)
    assert_equal(after.clients.received, opened)
    assert_equal(merged(after), after.aggregator.params)


@pytest.mark.parametrize("down", ["qsgd(2)", slow("topk(0.01)")])
def test_what_a_download_loses_never_reaches_the_aggregator(down):
    experiment, state, run = setup(
        model_down=down, clients=4, participants=2, client_learning_rate=0.0, aggregate_every=1
    )
    start = state.aggregator.params

    def astray(rows: Any) -> Any:
        """Who received something else before, so that there is a change to send."""
        received = jax.tree.map(lambda r: r + 0.1 * jnp.sin(jnp.arange(r.size)).reshape(r.shape),
                                rows.received)  # fmt: skip
        return rows.replace(received=received, batches_seen=jnp.ones_like(rows.batches_seen))

    state = state.replace(memory=astray(state.memory), clients=astray(state.clients))
    for _ in range(4):
        state, _ = run(state)
    received = memories(experiment.spec, state).received
    assert differs(received, jax.tree.map(lambda w: jnp.stack([w] * 4), start))
    assert_close(state.aggregator.params, start)


def test_what_feedback_left_is_each_clients_own_and_survives_absence():
    experiment, state, run = setup(
        client_gradient="feedback(topk(0.05))", clients=4, participants=2, local_steps=2
    )

    def left(state: State) -> list[np.ndarray]:
        kept = memories(experiment.spec, state).compressor_states["client_gradient"]
        return [np.asarray(x) for x in jax.tree.leaves(kept)]

    before = left(state)
    assert all((x == 0).all() for x in before) and [x.shape[0] for x in before] == [4, 4]
    been: set[int] = set()
    for _ in range(4):
        state, _ = run(state)
        present, after = set(np.asarray(state.participants).tolist()), left(state)
        been |= present
        for n in range(4):
            assert any((x[n] != 0).any() for x in after) == (n in been)
            moved = any(differs(x[n], y[n]) for x, y in zip(before, after, strict=True))
            assert moved == (n in present)
        before = after
    assert len(been) > 2, "somebody must be absent after its period"


STREAMS = {
    "dropout(0.3)|topk(0.2)|qsgd(5,100)": "uniform(3)",
    "topk(0.02,each=example)": "ternary",
    "splitfc(0.6)|bfloat16": "sign",
}


@pytest.mark.parametrize("up", STREAMS)
def test_counted_bytes_are_those_of_the_real_message(up):
    experiment, state, run = setup(smashed=up, cut_gradient=STREAMS[up], clients=2)
    spec, data, key = experiment.spec, experiment.data, experiment.key
    batch = next_batch(spec, data, key, state.clients.number, state.clients.batches_seen)
    exchange_key = fold(key, Purpose.EXCHANGE, 0, 0)
    _, record = run(state)
    for n in range(2):
        client = jax.tree.map(lambda x, n=n: x[n], state.clients)
        form = spec.pruner.forwards[0]
        activation = client_step.forward_one(spec, form, client, batch.inputs[n], exchange_key)[0]
        _, message, _ = jax.jit(functools.partial(send_activation, spec))(
            client, activation, fold(exchange_key, n)
        )
        labels = packing.labels_field(np.asarray(batch.labels[n]), spec.classes)
        assert len(packing.pack([message], [labels])) == int(record.sent["smashed_up"][0, n])
        answer = spec.compressors["cut_gradient"](n).send(
            client.compressor_states["cut_gradient"],
            fold(exchange_key, n, Stage.CUT_GRADIENT),
            kept_only(jnp.ones(activation.shape), message.kept),
        )[1]
        assert len(packing.pack([answer])) == int(record.sent["cut_gradient_down"][0, n])


@pytest.mark.parametrize("model", ["mlp", slow("cnn")])
def test_int8_products_on_clients_leave_losses_and_servers_alone_and_gradients_close(model):
    steps = {}
    for arithmetic in ("float", "int8"):
        _, state, run = setup(model=model, norm="none", clients=2, client_backward=arithmetic)
        after, record = run(state)
        move = jax.tree.map(lambda a, b: a - b, after.aggregator.params, state.aggregator.params)
        steps[arithmetic] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(move)])
        steps[arithmetic, "server"], steps[arithmetic, "loss"] = after.server, record.losses
    np.testing.assert_array_equal(steps["int8", "loss"], steps["float", "loss"])
    assert_equal(steps["int8", "server"].params, steps["float", "server"].params)
    one, other = steps["float"], steps["int8"]
    assert (one != other).any()
    assert one @ other > 0.99 * np.linalg.norm(one) * np.linalg.norm(other)


def test_int8_noise_is_each_clients_and_steps_own():
    experiment, state, _ = setup(client_backward="int8", clients=2)
    spec, key = experiment.spec, experiment.key
    images = jax.random.normal(jax.random.key(1), (8, *experiment.image.shape))
    client = jax.tree.map(lambda x: x[0], state.clients)

    @jax.jit
    def gradient(number, step):
        numbered, form = client.replace(number=number), spec.pruner.forwards[0]
        exchange = fold(key, Purpose.EXCHANGE, 0, step)
        y, back, _ = client_step.forward_one(spec, form, numbered, images, exchange)
        return back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    first, again = gradient(0, 0), gradient(0, 0)
    assert_equal(again, first)
    assert differs(gradient(1, 0), first) and differs(gradient(0, 1), first)


@pytest.mark.slow
def test_recomputation_draws_the_same_int8_noise():
    results = []
    for remat in (False, True):
        _, state, run = setup(
            model="cnn", clients=8, client_backward="int8", remat_clients=remat, client_chunk=2,
            prune_kind="channel", prune_rate=(0.5,) * 4 + (0.0,) * 4, client_learning_rate=50.0,
        )  # fmt: skip
        results.append(run(state)[0])
    # Another draw moves an entry by up to a code of 127, times this learning rate.
    assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)
