"""Losses and metrics of each example, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from next_tokens import cross_entropies

from jfedsl.engine.task import LOSSES, METRICS, TASKS, OfExamples

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(7, 3)).astype(np.float32)
NUMBERS = (OUTPUTS + 3 * RNG.normal(size=(7, 3))).astype(np.float32)
CLASSES = RNG.integers(0, 3, 7).astype(np.int32)
LOGITS = 3 * RNG.normal(size=(4, 5, 6)).astype(np.float32)
LENGTHS = np.array([5, 1, 3, 2])  # the second predicts nothing
TOKENS = np.where(np.arange(5) < LENGTHS[:, None], RNG.integers(0, 6, (4, 5)), -1).astype(np.int32)
NEXT = np.pad(TOKENS[:, 1:], ((0, 0), (0, 1)), constant_values=-1)


def cross_entropy(outputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.log(np.exp(outputs).sum(1)) - outputs[np.arange(7), classes]


def huber(outputs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    far = np.abs(outputs - numbers)
    assert (far > 1).any() and (far < 1).any()
    return np.where(far < 1, far**2 / 2, far - 0.5).mean(1)


def test_losses_are_of_each_example() -> None:
    expected = {
        "cross_entropy": cross_entropy(OUTPUTS, CLASSES),
        "squared_error": ((OUTPUTS - NUMBERS) ** 2).mean(1),
        "huber": huber(OUTPUTS, NUMBERS),
    }
    assert {*expected, "token_cross_entropy"} == set(LOSSES)
    for name, values in expected.items():
        targets = CLASSES if name == "cross_entropy" else NUMBERS
        computed = LOSSES[name](jnp.asarray(OUTPUTS), jnp.asarray(targets))
        assert computed.dtype == jnp.float32
        np.testing.assert_allclose(computed, values, rtol=1e-5)


def test_metrics_say_their_name_and_which_way_is_better() -> None:
    assert [name for name, metric in METRICS.items() if metric.name != name] == []
    accuracy, error = METRICS["accuracy"], METRICS["mean_absolute_error"]
    assert accuracy.higher_is_better and not error.higher_is_better
    computed = accuracy.of(jnp.asarray(OUTPUTS), jnp.asarray(CLASSES))
    np.testing.assert_array_equal(computed, (OUTPUTS.argmax(1) == CLASSES).astype(np.float32))
    computed = error.of(jnp.asarray(OUTPUTS), jnp.asarray(NUMBERS))
    np.testing.assert_allclose(computed, np.abs(OUTPUTS - NUMBERS).mean(1), rtol=1e-6)


def test_predicted_tokens_count_and_padding_does_not() -> None:
    task = TASKS["next_token"]
    logits, targets = jnp.asarray(LOGITS), jnp.asarray(NEXT)
    sums, counts = cross_entropies(LOGITS, TOKENS)
    losses = task.loss(logits, targets)
    np.testing.assert_allclose(losses, sums / np.maximum(counts, 1), rtol=1e-5)
    np.testing.assert_array_equal(task.weights(targets), LENGTHS - 1)
    mean = task.mean_loss(logits, targets)
    np.testing.assert_allclose(mean, sums.sum() / counts.sum(), rtol=1e-5)
    assert abs(mean - losses.mean()) > 0.1, "the mean is not over examples"
    of_mean = task.metric.of_mean
    assert of_mean is not None and of_mean(jnp.float32(1000.0)) == jnp.finfo(jnp.float32).max
    np.testing.assert_allclose(of_mean(mean), np.exp(sums.sum() / counts.sum()), rtol=1e-5)
    gradient = np.asarray(jax.grad(task.mean_loss)(logits, targets))
    assert (np.any(gradient, axis=-1) == (NEXT >= 0)).all()
    assert task.mean_loss(logits[1:2], targets[1:2]) == 0.0, "nothing is predicted"
    right = np.where(NEXT >= 0, LOGITS.argmax(-1) == NEXT, 0).sum(axis=1)
    accuracy = METRICS["token_accuracy"].of(logits, targets)
    np.testing.assert_allclose(accuracy, right / np.maximum(counts, 1), rtol=1e-6)


@pytest.mark.parametrize("loss", list(LOSSES.values())[:3], ids=list(LOSSES)[:3])
def test_losses_have_finite_gradients_where_outputs_are_right(loss: OfExamples) -> None:
    targets = CLASSES if loss is LOSSES["cross_entropy"] else OUTPUTS
    gradient = jax.grad(lambda x: loss(x, jnp.asarray(targets)).sum())(jnp.asarray(OUTPUTS))
    assert np.isfinite(gradient).all()


def test_a_task_names_the_kind_of_its_targets() -> None:
    assert {name: task.of_classes for name, task in TASKS.items()} == {
        "classification": True,
        "regression": False,
        "next_token": False,
    }
    assert [name for name, task in TASKS.items() if task.of_tokens] == ["next_token"]
