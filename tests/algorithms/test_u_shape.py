"""Clients that hold the first layers and the last ones, and keep their labels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine import reference
from helpers import assert_close, assert_equal, differs, exchange_of, plain, setup, slow

from jfedsl.algorithms.u_shape import TAIL_INPUT
from jfedsl.compression.message import Message
from jfedsl.config import Config
from jfedsl.config.canonical import refuse_idle
from jfedsl.engine.averaging import joined
from jfedsl.engine.exchange import Availability
from jfedsl.engine.exchanges import one_exchange
from jfedsl.engine.message_sizes import expected_bits
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import build
from jfedsl.run.assemble.radio import memory_of
from jfedsl.wireless.radio import Conditions

# mlp on digits, cut after dense1: 256 entries an example at the cut, 128 in front of the tail.
SMASHED, TAIL_ENTRIES = 8 * 256, 8 * 128
HEAD, TAIL = 64 * 256 + 256, 128 * 10 + 10  # weights and biases of both parts of a client
BATCH = 8

CASES = [
    ("mlp", "none", 2, 1, 1),
    ("mlp", "none", 1, 2, 3),
    *(slow("mlp", "none", 1, tail, 1) for tail in (1, 2)),
    slow("mlp", "batch", 2, 1, 3),
    *(slow("cnn", "group", cut, tail, 3) for cut in range(1, 6) for tail in range(1, 7 - cut)),
]


@pytest.mark.parametrize(("model", "norm", "cut", "tail", "clients"), CASES)
def test_a_step_is_that_of_fedsl_and_of_the_uncut_model(
    model: str, norm: str, cut: int, tail: int, clients: int
) -> None:
    same = {"model": model, "norm": norm, "cut": str(cut), "clients": clients}
    e, state, run = setup(algorithm="u_shape", tail=tail, **same)
    initial = e.initial
    batches = zip(*(reference.batch(e, n, 0) for n in range(clients)), strict=True)
    images, labels = map(jnp.concatenate, batches)
    uncut = jax.jit(jax.value_and_grad(reference.mean_loss, 1), static_argnums=0)
    loss, gradient = uncut(e.spec.model, initial.params, initial.stats, images, labels)
    state, record = run(state)
    whole = joined(e.spec, e.data.partition, state).params
    if norm != "batch":  # whose statistics are of one client's batch before the cut
        expected = jax.tree.map(lambda w, g: w - 0.05 * g, initial.params, gradient)
        assert_close(whole, expected)
        np.testing.assert_allclose(record.train_loss, loss, rtol=1e-5)
    if (norm, clients) == ("none", 1):
        return  # FedSL of one client is the uncut model, as another test shows
    _, other, split = setup(**same)
    other, beside = split(other)
    assert_close(whole, other.aggregator.params + other.server.params)
    np.testing.assert_allclose(record.losses, beside.losses, rtol=1e-5)
    state, record = run(state)
    other, beside = split(other)
    np.testing.assert_allclose(record.losses, beside.losses, rtol=1e-4)


def test_every_tail_is_tried() -> None:
    assert all(len(MODELS[m].build(10, "none")) == d for m, d in (("mlp", 4), ("cnn", 7)))


def test_bytes_are_those_counted_by_hand_and_labels_are_not_among_them() -> None:
    e, state, run = setup(algorithm="u_shape", local_steps=2)
    _, record = run(state)
    by_hand = {
        "smashed_up": 4 * SMASHED,
        "tail_input_down": 4 * TAIL_ENTRIES,
        "tail_gradient_up": 4 * TAIL_ENTRIES,
        "cut_gradient_down": 4 * SMASHED,
        "model_up": 4 * (HEAD + TAIL),
        "model_down": 4 * (HEAD + TAIL),
    }
    assert not any(stream.labels for stream in e.spec.algorithm.streams)
    assert set(record.sent) == set(by_hand)
    for column, count in by_hand.items():
        assert (np.asarray(record.sent[column]) == count).all(), column
    fresh = e.fresh()
    dense = uncompressed_bytes(e.spec, fresh.params, fresh.stats, e.image.shape, rounds=1)
    assert dense == {column: int(record.sent[column].sum()) for column in by_hand}


def test_compressed_bytes_are_those_counted_by_hand() -> None:
    quantized = {
        "smashed_bits": 4, "tail_input": "uniform(8,bucket=256)", "tail_gradient": "topk(0.25)",
        "cut_gradient_bits": 2, "bucket_size": 512,
    }  # fmt: skip
    _, state, run = setup(algorithm="u_shape", **quantized)
    record = run(state)[1]
    headers, entries = SMASHED // 512 * 8, TAIL_ENTRIES // 4
    assert (record.sent["smashed_up"] == SMASHED // 2 + headers).all()
    assert (record.sent["tail_input_down"] == TAIL_ENTRIES + TAIL_ENTRIES // 256 * 8).all()
    # A bit for each entry says which are among the largest.
    assert (record.sent["tail_gradient_up"] == 4 * entries + TAIL_ENTRIES // 8).all()
    assert (record.sent["cut_gradient_down"] == SMASHED // 4 + headers).all()


def test_dropout_is_that_of_the_way_up_and_of_the_way_to_the_tail() -> None:
    """A step with dropout at both places is one on the loss with the dropped entries at 0."""
    changes = {"smashed": "dropout(0.3)", "tail_input": "dropout(0.4)", "clients": 1}
    e, state, _ = setup(algorithm="u_shape", **changes)
    spec, x = e.spec, exchange_of(e, state)
    images, labels = reference.batch(e, 0, 0)
    client = jax.tree.map(lambda leaf: leaf[0], state.clients)

    def passed(name: str, stage: int, y: Any) -> Any:
        send, key = spec.compressors[name](client.number).send, fold(x.client_keys[0], stage)
        return send(client.compressor_states[name], key, Message(y))[1].values

    def loss(params: Any) -> Any:
        def part(first: int, last: int, y: Any) -> Any:
            model, held = spec.model[first:last], params[first:last]
            return layers.apply(model, held, ({},) * len(model), y, True)[0]

        y = passed("smashed", Stage.SMASHED, part(0, 2, images))
        y = passed("tail_input", TAIL_INPUT.stage, part(2, 3, y))
        return spec.task.mean_loss(part(3, 4, y), labels)

    @jax.jit
    def both(params: Any) -> Any:
        return jax.value_and_grad(loss)(params), one_exchange(x, state.server, state.clients)

    (value, gradient), (server, clients, record) = both(e.initial.params)
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, e.initial.params, gradient)
    held = jax.tree.map(lambda leaf: leaf[0], clients.params)
    assert_close(held[:2] + server.params + held[2:], expected)
    np.testing.assert_allclose(record.losses, value[None], rtol=1e-5)
    for up, down in (("smashed", "cut_gradient"), ("tail_gradient", "tail_input")):
        assert_equal(record.sent[f"{up}_up"], record.sent[f"{down}_down"])
    assert 0 < int(record.sent["tail_input_down"][0]) < 4 * TAIL_ENTRIES


def test_who_does_not_reach_the_server_is_put_back() -> None:
    changes = {"deadline_s": 1.0, "tail_gradient": "feedback(topk(0.1))", "network": "macro_cell"}
    e, state, _ = setup(algorithm="u_shape", clients=3, **changes)
    fast, rates = jnp.zeros(3), jnp.full(3, 1e9)
    late, there = fast.at[1].set(2.0), jnp.array([True, True, False])
    conditions = Conditions(rates, rates, late, fast, there, rates, rates)
    x = exchange_of(e, state)._replace(availability=Availability(jnp.ones(3, bool), conditions))
    run = jax.jit(lambda state: one_exchange(x, state.server, state.clients))
    server, clients, record = run(state)
    assert record.took_part.tolist() == [True, False, False]

    def of(n: int, client: Any) -> Any:
        return [leaf[n] for leaf in jax.tree.leaves(client.replace(number=()))]

    assert differs(
        *([leaf[0] for leaf in jax.tree.leaves(c.params)] for c in (clients, state.clients))
    )
    for n in (1, 2):
        assert_equal(of(n, clients), of(n, state.clients))
    assert (record.sent["smashed_up"] > 0).all(), "they tried"
    for column in ("tail_input_down", "tail_gradient_up", "cut_gradient_down"):
        assert (np.asarray(record.sent[column]) > 0).tolist() == [True, False, False]
    # The server steps on the one that it heard as if there were no others.
    alone = x._replace(availability=None, weights=jnp.array([1.0, 0.0, 0.0]))
    expected = jax.jit(lambda: one_exchange(alone, state.server, state.clients))()[0]
    assert_close(server.params, expected.params)


def test_evaluation_and_export_have_all_layers() -> None:
    e, state, _ = setup(algorithm="u_shape", tail_input="topk(0.2)")
    whole = joined(e.spec, e.data.partition, state)
    assert len(whole.params) == len(whole.stats) == len(e.spec.model)
    x, labels = (part.reshape(-1, *part.shape[2:]) for part in (e.test.images, e.test.labels))
    valid = e.test.valid.reshape(-1)
    inputs = e.data.pixels.prepare(x)
    y, _ = layers.apply(e.spec.model, whole.params, whole.stats, inputs, False)
    right = (jnp.argmax(y, -1) == labels)[valid]
    tested = e.evaluate()(e.data, state, e.test)
    np.testing.assert_allclose(tested.metric, right.mean(), rtol=1e-5)
    # In use the largest entries alone come down to the tail.
    middle, _ = layers.apply(e.spec.model[:3], whole.params[:3], whole.stats[:3], inputs, False)
    least = jnp.sort(middle, axis=1)[:, -26][:, None]  # of the 26 that are a fifth of 128
    kept = jnp.where(middle >= least, middle, 0.0)
    y, _ = layers.apply(e.spec.model[3:], whole.params[3:], whole.stats[3:], kept, False)
    right = (jnp.argmax(y, -1) == labels)[valid]
    np.testing.assert_allclose(tested.metric_deployed, right.mean(), atol=3 / len(right))
    assert tested.metric_deployed != tested.metric


def test_the_tail_counts_on_the_client() -> None:
    changes = {"network": "macro_cell", "allocation": "minmax", "momentum": 0.9}
    e = build(plain(algorithm="u_shape", tail_input="dropout(0.5)", **changes))
    split = build(plain(network="macro_cell"))
    tail = 3 * 2 * 128 * 10  # of an example: forward, and by kernel and input
    assert e.client_flops.dense == split.client_flops.dense + tail
    counts, other = e.spec.radio.flop_counts, split.spec.radio.flop_counts
    assert_equal((counts.forward, counts.backward), (other.forward, other.backward))
    assert BATCH * tail <= counts.tail <= 1.1 * BATCH * tail
    products = BATCH * 2 * 256 * 128
    assert 2 * products <= counts.server_backward <= 2.2 * products
    assert 3 * products <= counts.server <= 3.3 * products
    assert counts.server + counts.tail <= 1.01 * other.server
    image, model = e.image.shape, e.spec.model[:2]
    memory, less = (memory_of(plain(), x.spec, model, image) for x in (e, split))
    assert memory.parameters == less.parameters + 4 * TAIL
    assert memory.gradients == less.gradients + 4 * TAIL
    assert memory.optimizer == memory.parameters and memory.batch == less.batch + 4 * TAIL_ENTRIES
    bits = np.asarray(expected_bits(e.spec, e.key, image))
    assert bits.shape == (1, 4)
    mean = 8 * (4 * SMASHED + 4 * TAIL_ENTRIES / 2)
    np.testing.assert_allclose(bits, mean, rtol=0.1)
    assert (bits > 8 * 4 * SMASHED).all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tail": 0}, "--tail must be a whole number from 1 to 1000, not 0"),
        (
            {"algorithm": "fedsl", "tail_input": "topk(0.1)"},
            r"--tail_input=topk\(0.1\) has no effect with --algorithm=fedsl; remove it",
        ),
        ({"tail_gradient": "gzip"}, "--tail_gradient=gzip: "),
        ({"tail": 2}, "--tail must be at most 1, which leaves the server a layer, not 2; --cut="),
        ({"cut": "dense2"}, "--cut must be an earlier layer, not dense2; it has 1 layer behind"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        build(plain(**{"algorithm": "u_shape", **changes}))


def test_other_algorithms_have_no_tail() -> None:
    with pytest.raises(UserError, match="--tail=2 has no effect with --algorithm=fedsl; remove it"):
        refuse_idle([Config(tail=2)])
