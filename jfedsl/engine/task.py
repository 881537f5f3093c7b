"""Tasks: the loss, what inputs become before the first layer, and the measure of success."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array


class Task(NamedTuple):
    """What a model is trained for.

    Attributes:
      loss: `(outputs[B, ...], targets[B, ...]) -> float32 [B]`, of each example.
      score: likewise, what is averaged over the test set and reported beside the loss.
    """

    loss: Callable[[Array, Array], Array]
    score: Callable[[Array, Array], Array]


def _correct(logits: Array, labels: Array) -> Array:
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


CLASSIFICATION = Task(optax.softmax_cross_entropy_with_integer_labels, _correct)
