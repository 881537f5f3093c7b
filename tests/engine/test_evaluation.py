"""Test loss and accuracy against NumPy sums over the test set."""

from functools import partial

import jax
import numpy as np
import pytest
from helpers import setup

from jfedsl.data import datasets
from jfedsl.engine.evaluation import distinct
from jfedsl.engine.evaluation_set import fold_test_set
from jfedsl.engine.state import weights
from jfedsl.models import layers

_apply = jax.jit(partial(layers.apply, train=False), static_argnums=0)


def by_hand(experiment, params, stats):
    """Mean loss and accuracy of a whole model over the digits' test set, in float64."""
    test = datasets.load("digits", "").test
    images = experiment.data.pixels.prepare(jax.numpy.asarray(test.images))
    logits, _ = _apply(experiment.spec.model, params, stats, images)
    logits = np.asarray(logits, np.float64)
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -scores[np.arange(len(test.labels)), test.labels].mean()
    return loss, (logits.argmax(axis=1) == test.labels).mean()


@pytest.mark.parametrize("batch_size", [1, 7, 360, 1000])
def test_padding_folds_away(batch_size):
    labels = np.arange(10, dtype=np.int32)
    test = fold_test_set(np.zeros((10, 2, 2, 1), np.uint8), labels, batch_size)
    np.testing.assert_array_equal(test.labels[test.valid], labels)
    assert test.images.shape[:2] == test.valid.shape and test.valid.shape[1] <= 10


@pytest.mark.parametrize("eval_batch_size", [500, 77])
def test_merged_model_between_aggregations(eval_batch_size):
    experiment, state, run = setup(
        aggregate_every=5, clients=3, partition="quantity", quantity_alpha=5.0,
        aggregation="examples", dropout_rate=0.3, eval_batch_size=eval_batch_size,
    )  # fmt: skip
    state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    share = np.asarray(weights(experiment.spec, experiment.data.partition, state.participants))
    merged = jax.tree.map(lambda x: np.tensordot(share, x, 1), state.clients.params)
    loss, accuracy = by_hand(experiment, merged + state.server.params, experiment.initial.stats)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(result.metric, accuracy, rtol=1e-6)
    assert result.metric_dense == result.metric


def topk_of(smashed: np.ndarray, keep: float) -> np.ndarray:
    """The largest magnitudes of each row, in NumPy."""
    count = round(keep * smashed.shape[1])
    order = np.argsort(-np.abs(smashed), axis=1, kind="stable")
    kept = np.zeros(smashed.shape, bool)
    np.put_along_axis(kept, order[:, :count], True, axis=1)
    return np.where(kept, smashed, 0.0)


@pytest.mark.parametrize("smashed", ["topk([0.02,0.02,0.3])", "feedback(topk([0.02,0.02,0.3]))"])
def test_the_deployed_model_crosses_the_cut_with_each_clients_compressor(smashed):
    experiment, state, run = setup(clients=3, aggregation="equal", smashed=smashed)
    state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    test, spec = datasets.load("digits", "").test, experiment.spec
    images = experiment.data.pixels.prepare(jax.numpy.asarray(test.images))
    sides = spec.model[: spec.cut], spec.model[spec.cut :]
    none = ({},) * len(spec.model)
    sent, _ = _apply(sides[0], state.aggregator.params, none[: spec.cut], images)
    accuracies = []
    for keep in (0.02, 0.02, 0.3):
        arrived = jax.numpy.asarray(topk_of(np.asarray(sent), keep))
        logits, _ = _apply(sides[1], state.server.params, none[spec.cut :], arrived)
        accuracies.append((np.asarray(logits).argmax(axis=1) == test.labels).mean())
    assert accuracies[0] != accuracies[2]
    np.testing.assert_allclose(result.metric_deployed, np.mean(accuracies), rtol=1e-5)
    assert result.metric_deployed != result.metric == result.metric_dense


def test_balanced_accuracy_gives_each_class_the_same_weight():
    experiment, state, run = setup(clients=2, metric="balanced_accuracy", test_examples=40)
    state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    spec, valid = experiment.spec, np.asarray(experiment.test.valid)
    labels, images = (
        np.asarray(x)[valid] for x in (experiment.test.labels, experiment.test.images)
    )
    none, inputs = (
        ({},) * len(spec.model),
        experiment.data.pixels.prepare(jax.numpy.asarray(images)),
    )
    params = state.aggregator.params + state.server.params
    logits, _ = _apply(spec.model, params, none, inputs)
    correct = np.asarray(logits).argmax(axis=1) == labels
    recalls = [correct[labels == n].mean() for n in np.unique(labels)]
    assert abs(np.mean(recalls) - correct.mean()) > 1e-4
    np.testing.assert_allclose(result.metric, np.mean(recalls), rtol=1e-5)


def test_unbiased_compressors_leave_the_deployed_model_nearly_as_it_is():
    experiment, state, run = setup(
        clients=2, smashed="dropout(0.3)|uniform(8)", prune_kind="mask", prune_rate=(0.5,)
    )
    for _ in range(3):
        state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    assert abs(result.metric_deployed - result.metric) < 0.01
    assert result.metric_dense != result.metric


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_unequal_masks_are_weighted_by_examples(score):
    experiment, state, run = setup(
        clients=4, prune_kind="mask", prune_rate=(0.0, 0.9, 0.9, 0.5), prune_score=score,
        partition="quantity", quantity_alpha=5.0, aggregation="examples", batch_size=4,
    )  # fmt: skip
    state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    share = np.asarray(weights(experiment.spec, experiment.data.partition, state.participants))
    accuracies = []
    for n in range(4):
        params = jax.tree.map(
            lambda w, m, n=n: np.asarray(w) * np.asarray(m[n]),
            state.aggregator.params,
            state.clients.masks,
        )
        accuracies.append(
            by_hand(experiment, params + state.server.params, experiment.initial.stats)
        )
    loss, accuracy = share @ np.array(accuracies)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(result.metric, accuracy, rtol=1e-5)
    dense = by_hand(
        experiment, state.aggregator.params + state.server.params, experiment.initial.stats
    )
    np.testing.assert_allclose(result.metric_dense, dense[1], rtol=1e-6)
    pruner = experiment.spec.pruner
    slots, sums = distinct(
        pruner.mask_group, pruner.groups[0], state.participants, jax.numpy.asarray(share)
    )
    assert len(slots) == (3 if score == "magnitude" else 4)
    np.testing.assert_allclose(sums.sum(), 1.0, rtol=1e-6)


def test_local_statistics_are_evaluated_client_by_client():
    experiment, state, run = setup(
        model="mlp", norm="batch", batch_norm_statistics="local", clients=3, prune_kind="mask"
    )
    for _ in range(2):
        state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    accuracies = []
    for n in range(3):
        stats, masks = (
            jax.tree.map(lambda x, n=n: x[n], t) for t in (state.clients.stats, state.clients.masks)
        )
        params = jax.tree.map(
            lambda w, m: np.asarray(w) * np.asarray(m), state.aggregator.params, masks
        )
        accuracies.append(
            by_hand(experiment, params + state.server.params, stats + state.server.stats)
        )
    np.testing.assert_allclose(result.metric, np.mean(accuracies, axis=0)[1], rtol=1e-5)
    assert len({loss for loss, _ in accuracies}) == 3
