"""Tasks: what a model is trained for, as tables of losses, metrics and whole tasks.

Outputs are those of the model, float32 `[B, D]`. Targets are the classes of the examples, int32
`[B]`, or real numbers, float32 `[B, D]`; a single number an example has D = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

# From outputs `[B, D]` and targets to one value for each example, float32 `[B]`.
OfExamples = Callable[[Array, Array], Array]


class Metric(NamedTuple):
    """A measure of success: its mean over the test examples is reported beside the loss.

    Attributes:
      name: of its columns, such as `accuracy` of `test_accuracy`.
      of: its value for each example.
      higher_is_better: whether a greater mean is a better one.
      by_class: whether each class has the same weight: the mean is over the classes that have test
        examples, of the mean over the examples of each.
    """

    name: str
    of: OfExamples
    higher_is_better: bool = True
    by_class: bool = False


class Task(NamedTuple):
    """What a model is trained for.

    Attributes:
      loss: of each example; training minimises its mean.
      metric: measure of success.
      of_classes: whether targets are classes; else they are real numbers.
    """

    loss: OfExamples
    metric: Metric
    of_classes: bool = True


def _correct(outputs: Array, targets: Array) -> Array:
    return (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)


def squared_error(outputs: Array, targets: Array) -> Array:
    """Mean over the D entries of the squared differences, float32 `[B]`."""
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def absolute_error(outputs: Array, targets: Array) -> Array:
    """Mean over the D entries of the absolute differences, float32 `[B]`."""
    return jnp.mean(jnp.abs(outputs - targets), axis=-1)


def huber(outputs: Array, targets: Array) -> Array:
    """Mean over the D entries of half the square, linear beyond a difference of 1, float32 `[B]`.

    Huber 1964, doi 10.1214/aoms/1177703732.
    """
    return jnp.mean(optax.huber_loss(outputs, targets), axis=-1)


LOSSES: dict[str, OfExamples] = {
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
    "squared_error": squared_error,
    "huber": huber,
}
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _correct),
        Metric("balanced_accuracy", _correct, by_class=True),
        Metric("mean_absolute_error", absolute_error, higher_is_better=False),
    )
}
TASKS: dict[str, Task] = {
    "classification": Task(LOSSES["cross_entropy"], METRICS["accuracy"]),
    "regression": Task(squared_error, METRICS["mean_absolute_error"], of_classes=False),
}


def default_task(of_classes: bool) -> str:
    """The name of the task of a data set whose targets are classes, or real numbers."""
    return "classification" if of_classes else "regression"
