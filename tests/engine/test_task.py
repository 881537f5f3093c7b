"""Losses and metrics of each example, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.engine.task import LOSSES, METRICS, TASKS, OfExamples

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(7, 3)).astype(np.float32)
NUMBERS = (OUTPUTS + 3 * RNG.normal(size=(7, 3))).astype(np.float32)
CLASSES = RNG.integers(0, 3, 7).astype(np.int32)


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
    assert set(expected) == set(LOSSES)
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


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_have_finite_gradients_where_outputs_are_right(loss: OfExamples) -> None:
    targets = CLASSES if loss is LOSSES["cross_entropy"] else OUTPUTS
    gradient = jax.grad(lambda x: loss(x, jnp.asarray(targets)).sum())(jnp.asarray(OUTPUTS))
    assert np.isfinite(gradient).all()


def test_a_task_names_the_kind_of_its_targets() -> None:
    assert {name: task.of_classes for name, task in TASKS.items()} == {
        "classification": True,
        "regression": False,
    }
