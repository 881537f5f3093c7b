"""Personal layers: what stays with clients, what is averaged, sent, pruned and tested."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, plain, setup
from models.transformers import reference as transformers
from run.assemble.test_pretrained import ids

from engine import reference
from engine.test_evaluation import by_hand
from jfedsl.data import datasets
from jfedsl.data.datasets import DATASETS
from jfedsl.engine.adapter_averaging import adapters_of, without_adapters
from jfedsl.engine.averaging import joined
from jfedsl.engine.client_accuracies import class_accuracies, distinct_models
from jfedsl.engine.client_memory import memories
from jfedsl.engine.masks import pruned_shares
from jfedsl.engine.period import end_period, start_period
from jfedsl.engine.state import weights
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.run.assemble import build

# Clients hold flatten, dense1 (64 x 256) and dense2 (256 x 128); the last two have biases.
DENSE1, DENSE2 = 64 * 256 + 256, 256 * 128 + 128
SPLIT: dict[str, Any] = {"cut": "dense2", "personal": "dense1"}


def row(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x[n], tree)


def test_a_personal_layer_takes_the_steps_of_its_client_and_others_are_averaged() -> None:
    e, state, run = setup(
        clients=3, partition="quantity", quantity_alpha=5.0, aggregation="examples", **SPLIT
    )
    share = np.asarray(weights(e.spec, e.data.partition, state.participants), np.float64)
    assert len(set(share.tolist())) == 3
    for number in range(2):  # in the second round personal layers differ beforehand
        before = state
        _, gradients, _ = reference.gradients(e, before, number, 0, share)
        state, record = run(before)
        held = before.clients.params
        stepped = [
            jax.tree.map(lambda w, g, n=n: np.float64(w[n]) - 0.05 * np.float64(g), held, gradient)
            for n, gradient in enumerate(gradients)
        ]
        mean = jax.tree.map(lambda *w: np.tensordot(share, np.stack(w), 1), *stepped)
        for n in range(3):
            held = row(state.clients.params, n)
            assert_close(held[1], stepped[n][1])
            assert_close(held[2], mean[2])
        assert_close(state.aggregator.params[2], mean[2])
        assert_equal(state.aggregator.params[1], e.initial.params[1])
        assert_close(
            joined(e.spec, e.data.partition, state).params[1],
            jax.tree.map(lambda *w: np.tensordot(share, np.stack(w), 1), *(p[1] for p in stepped)),
        )
        assert (record.sent["model_up"] == 4 * DENSE2).all()
        assert (record.sent["model_down"] == 4 * DENSE2).all()
    image = e.image.shape
    dense = uncompressed_bytes(e.spec, e.initial.params[:3], e.initial.stats[:3], image, 2)
    assert dense["model_up"] == dense["model_down"] == 2 * 3 * 4 * DENSE2


def test_absent_clients_keep_their_layers_and_all_are_tested_with_their_own() -> None:
    e, state, run = setup(clients=5, participants=2, partition="dirichlet", **SPLIT)
    expected = {n: e.initial.params[1] for n in range(5)}
    for _ in range(3):
        state, record = run(state)
        for slot, n in enumerate(record.participants.tolist()):
            assert differs(state.clients.params[1], expected[n])
            expected[n] = row(state.clients.params[1], slot)
        held = memories(e.spec, state).params
        assert [len(jax.tree.leaves(layer)) for layer in held] == [0, 2, 0]
        assert_equal(held[1], jax.tree.map(lambda *x: jnp.stack(x), *expected.values()))
    assert sum(not differs(w, e.initial.params[1]) for w in expected.values()) < 3
    common = (state.aggregator.params[0],), (state.aggregator.params[2], *state.server.params)
    wholes = [common[0] + (expected[n],) + common[1] for n in range(5)]
    scores = [by_hand(e, whole, e.initial.stats) for whole in wholes]
    result = e.evaluate()(e.data, state, e.test)
    share = np.asarray(weights(e.spec, e.data.partition, state.participants))
    taking_part = [scores[n] for n in state.participants.tolist()]
    np.testing.assert_allclose([result.loss, result.metric], share @ taking_part, rtol=1e-4)
    assert result.metric == result.metric_dense

    first, model = distinct_models(e.spec, state)
    assert model.tolist() == list(range(5))
    measure = jax.jit(partial(class_accuracies, e.spec, clients=first))
    by_class = measure(e.data, e.key, state, e.test)
    labels = datasets.load("digits", "").test.labels
    by_client = np.asarray(by_class) @ np.bincount(labels) / len(labels)
    np.testing.assert_allclose(by_client, [accuracy for _, accuracy in scores], rtol=1e-5)
    assert len({round(float(x), 4) for x in by_client}) > 2


def test_where_all_layers_are_personal_nothing_is_sent_or_averaged() -> None:
    """Federated averaging then is local training."""
    e, state, run = setup(personal="all", algorithm="fedavg", clients=2)
    expected = [e.initial.params] * 2
    step = jax.jit(jax.grad(reference.mean_loss, 1), static_argnums=0)
    for number in range(2):
        state, record = run(state)
        assert not record.sent["model_up"].any() and not record.sent["model_down"].any()
        for n, params in enumerate(expected):
            gradient = step(e.spec.model, params, e.initial.stats, *reference.batch(e, n, number))
            expected[n] = jax.tree.map(lambda w, g: w - 0.05 * g, params, gradient)
            assert_close(row(state.clients.params, n), expected[n])
    assert_equal(state.aggregator.params, e.initial.params)


def test_a_personal_layer_is_neither_quantized_nor_pruned_nor_are_its_statistics_sent() -> None:
    e = build(plain(
        **SPLIT, clients=2, norm="batch", prune_kind="mask", prune_rate=(0.25,),
        model_up="uniform(8)",
    ))  # fmt: skip
    spec, partition, start = e.spec, e.data.partition, e.init()
    opened, down = jax.jit(partial(start_period, spec))(e.key, start)
    clients = opened.clients
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda w: w + rng.normal(size=w.shape).astype(np.float32), (clients.params, clients.stats)
    )
    trained = clients.replace(params=moved[0], stats=moved[1])
    after, up, _ = jax.jit(partial(end_period, spec))(
        e.key, partition, opened.replace(clients=trained)
    )

    assert_equal([after.clients.params[1], after.clients.stats[1]], [moved[0][1], moved[1][1]])
    assert_equal(row(after.clients.stats, 0)[2], after.aggregator.stats[2])
    exact, sent = moved[0][2]["Dense_0"]["kernel"], after.aggregator.params[2]["Dense_0"]["kernel"]
    kept = np.asarray(clients.masks[2]["Dense_0"]["kernel"][0])
    errors = np.abs(np.asarray(sent) - np.asarray(exact).mean(axis=0))[kept]
    assert 0 < errors.max() < 10 / 255  # a step of 8 bits in a bucket's range, below 10

    assert spec.pruner.names == ("dense2",)
    assert all(np.all(mask) for mask in jax.tree.leaves(clients.masks[1]))
    assert pruned_shares(spec, clients)[0].tolist() == [0.25, 0.25]

    kernel, scale_and_offset, mean_and_variance = 256 * 128, 2 * 128, 2 * 128
    entries = kernel * 3 // 4 + scale_and_offset
    bitmap, headers, statistics = kernel // 8, (kernel // 512 + 2) * 8, 4 * mean_and_variance
    assert (down == 4 * entries + statistics + bitmap).all()
    assert (up == entries + headers + statistics).all()


def test_a_layer_that_clients_lack_is_refused_with_those_that_they_hold() -> None:
    with pytest.raises(UserError) as error:
        build(plain(personal="dense1,dense2"))
    assert str(error.value) == (
        "--personal must be none, all or some of dense1, separated by commas, not dense2; "
        "did you mean dense1?"
    )
    allowed = "none, all or some of dense1, logits, aux_dense, logits"
    with pytest.raises(UserError, match="not flatten"):
        build(plain(personal="flatten", algorithm="local_loss", aux="mlp(4)"))
    with pytest.raises(UserError, match=allowed.split(", logits")[0]):
        build(plain(personal="dense2", algorithm="u_shape", tail=1))


@pytest.fixture
def bert(tables: None, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The tiny BERT without its last block, cut behind its first one, with adapters of rank 2."""
    DATASETS["ids"] = lambda _: ids()
    folder = transformers.shortened("bert", 2, tmp_path)
    yield {
        "dataset": "ids", "pretrained": folder, "cut": "block1", "clients": 2,
        "client_learning_rate": 2.0,
    }  # fmt: skip


def test_adapters_stay_where_norms_are_averaged(bert: dict[str, Any]) -> None:
    ranks = {"client_adapter": "lora([2,1],norms=yes)", "adapter": "lora(2)"}
    e, state, run = setup(**bert, **ranks, personal="adapters")
    assert e.spec.adapters is None and state.aggregator.adapter_error is None
    after, record = run(state)
    rows = [row(after.clients.params, n) for n in range(2)]
    assert differs(adapters_of(rows[0]), adapters_of(rows[1]))
    common = without_adapters(rows[0])
    assert_equal(common, without_adapters(rows[1]))
    assert differs(common, without_adapters(row(state.clients.params, 0)))
    norms = sum(x.size for x in jax.tree.leaves(common))
    assert norms and (record.sent["model_up"] == 4 * norms).all()


@pytest.mark.slow
def test_adapters_of_other_layers_are_averaged(bert: dict[str, Any]) -> None:
    e, state, run = setup(**{**bert, "adapter": "lora(2)", "cut": "block2"}, personal="block1")
    state, record = run(state)
    first, second = (row(state.clients.params, n) for n in range(2))
    assert differs(first[1], second[1]) and not differs(first[2], second[2])
    assert e.spec.adapters is not None and float(record.adapter_error) > 0
    entries = sum(x.size for x in jax.tree.leaves(first[2]))
    assert (record.sent["model_up"] == 4 * entries).all()
