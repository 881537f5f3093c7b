"""Tasks: what a model is trained for, as tables of losses, metrics and whole tasks.

Outputs are those of the model, float32 `[B, D]`. Targets are the classes of the examples, int32
`[B]`, or real numbers, float32 `[B, D]`; a single number an example has D = 1. Where tokens are
predicted, outputs are logits float32 `[B, T, V]`, and targets are ids int32 `[B, T]`, -1 where
there is none.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

NO_TOKEN = -1  # where no token is predicted

# From outputs and targets to one value for each example, float32 `[B]`. Where tokens are predicted
# it is the mean over those of the example.
OfExamples = Callable[[Array, Array], Array]


class Metric(NamedTuple):
    """A measure of success: its mean over the test examples is reported beside the loss.

    Where tokens are predicted, the mean is over all predicted tokens of the test set.

    Attributes:
      name: of its columns, such as `accuracy` of `test_accuracy`.
      of: its value for each example.
      higher_is_better: whether a greater mean is a better one.
      by_class: whether each class has the same weight: the mean is over the classes that have test
        examples, of the mean over the examples of each.
      by_bytes: whether the sum over the predicted tokens is divided by the bytes of the text that
        they stand for, not by their number; the data set has to say how many.
      of_mean: from the mean, a scalar, to what is reported; None: the mean itself.
    """

    name: str
    of: OfExamples
    higher_is_better: bool = True
    by_class: bool = False
    by_bytes: bool = False
    of_mean: Callable[[Array], Array] | None = None


class Task(NamedTuple):
    """What a model is trained for.

    Attributes:
      loss: of each example; training minimises its mean, see `mean`.
      metric: measure of success.
      of_classes: whether targets are the classes of examples.
      of_tokens: whether targets are the next tokens of each example. If both are False, targets are
        real numbers.
    """

    loss: OfExamples
    metric: Metric
    of_classes: bool = True
    of_tokens: bool = False

    def weights(self, targets: Array) -> Array | None:
        """How much each example counts in a mean; None if all count the same.

        Args:
          targets: `[..., B, T]`.

        Returns:
          The number of its predicted tokens, float32 `[..., B]`, where tokens are predicted.
        """
        if not self.of_tokens:
            return None
        return jnp.sum(targets != NO_TOKEN, axis=-1, dtype=jnp.float32)

    def mean(self, values: Array, targets: Array) -> Array:
        """The mean of `values[..., B]` of examples with targets `[..., B, ...]`, as `[...]`.

        Where tokens are predicted, it is the mean over the predicted tokens of all B examples: a
        text counts by its length, and padding does not count. Without any it is 0.
        """
        weights = self.weights(targets)
        if weights is None:
            return jnp.mean(values, axis=-1)
        return jnp.sum(weights * values, axis=-1) / jnp.maximum(jnp.sum(weights, axis=-1), 1)

    def mean_loss(self, outputs: Array, targets: Array) -> Array:
        """The mean loss of the examples of a batch, a scalar."""
        return self.mean(self.loss(outputs, targets), targets)


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


def token_cross_entropy(outputs: Array, targets: Array) -> Array:
    """Mean over the predicted tokens of an example of the cross-entropy, float32 `[B]`, in nats.

    0 of an example without predicted tokens.
    """
    there = targets != NO_TOKEN
    ids = jnp.where(there, targets, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, ids)
    return _mean_of_tokens(losses, there)


def token_accuracy(outputs: Array, targets: Array) -> Array:
    """Share of the predicted tokens of an example with the greatest logit, float32 `[B]`."""
    return _mean_of_tokens(_correct(outputs, targets), targets != NO_TOKEN)


def _mean_of_tokens(values: Array, there: Array) -> Array:
    count = jnp.sum(there, axis=-1, dtype=jnp.float32)
    return jnp.sum(jnp.where(there, values, 0.0), axis=-1) / jnp.maximum(count, 1)


def _bits_of_tokens(outputs: Array, targets: Array) -> Array:
    return token_cross_entropy(outputs, targets) / math.log(2)


def perplexity(mean: Array) -> Array:
    """The exponential of a mean cross-entropy in nats, at most the largest float32."""
    return jnp.minimum(jnp.exp(mean), jnp.finfo(jnp.float32).max)


LOSSES: dict[str, OfExamples] = {
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
    "squared_error": squared_error,
    "huber": huber,
    "token_cross_entropy": token_cross_entropy,
}
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _correct),
        Metric("balanced_accuracy", _correct, by_class=True),
        Metric("mean_absolute_error", absolute_error, higher_is_better=False),
        Metric("perplexity", token_cross_entropy, higher_is_better=False, of_mean=perplexity),
        Metric("bits_per_byte", _bits_of_tokens, higher_is_better=False, by_bytes=True),
        Metric("token_accuracy", token_accuracy),
    )
}
TASKS: dict[str, Task] = {
    "classification": Task(LOSSES["cross_entropy"], METRICS["accuracy"]),
    "regression": Task(squared_error, METRICS["mean_absolute_error"], of_classes=False),
    "next_token": Task(
        token_cross_entropy, METRICS["perplexity"], of_classes=False, of_tokens=True
    ),
}


def default_task(of_classes: bool) -> str:
    """The name of the task of a data set whose targets are classes, or real numbers."""
    return "classification" if of_classes else "regression"
