"""How much a weight or a channel matters; the least are pruned first."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.keys import fold

DECAY = 0.5  # of a Taylor score, for each period in which nobody keeps the weight
UNKNOWN = -1.0  # the Taylor score of all weights before the first aggregation


def magnitude(weights: list[Array]) -> list[Array]:
    """|w| of every weight."""
    return [jnp.abs(w) for w in weights]


def random(key: Array, weights: list[Array]) -> list[Array]:
    """Uniform draws, one a weight."""
    return [jax.random.uniform(fold(key, i), w.shape, w.dtype) for i, w in enumerate(weights)]


def taylor(
    last: list[Array], sizes: list[Array], changes: list[Array], kept: list[Array], rate: Array
) -> list[Array]:
    """|w * g|, the first-order change of the loss without the weight (arXiv 1906.10771, eq. 8).

    g is the change of the weight over a period, which the aggregator has, divided by the sum of the
    learning rates of the period's exchanges: the mean gradient with plain SGD, the mean step per
    unit of learning rate with momentum or Adam. So scores of periods with different learning rates
    are on one scale.

    Where nobody kept the weight in the period, g is not known, and its last score is halved:
    gradients shrink in training, and an early score would outlive those of weights that are
    trained. At the first aggregation, what nobody kept starts from |w| times the mean |g| of its
    leaf: with a typical gradient.

    Args:
      last: scores so far, one array a leaf; negative before the first aggregation.
      sizes: |w| now.
      changes: |w * dw|, with dw the change over the period.
      kept: bool, whether any participant kept the weight.
      rate: float32, sum of the learning rates of the period, above 0.

    Returns:
      The new scores.
    """

    def total(values: list[Array]) -> list[Array]:
        return [jnp.sum(jnp.where(k, x, 0.0)) for k, x in zip(kept, values, strict=True)]

    change, size = total(changes), total(sizes)
    everywhere = sum(change, jnp.float32(0)) / _positive(sum(size, jnp.float32(0)))

    def renewed(s: Array, w: Array, c: Array, k: Array, change: Array, size: Array) -> Array:
        typical = jnp.where(size > 0, change / _positive(size), everywhere)
        absent = jnp.where(s < 0, w * typical / rate, DECAY * s)
        return jnp.where(k, c / rate, absent)

    return [renewed(*row) for row in zip(last, sizes, changes, kept, change, size, strict=True)]


def _positive(x: Any) -> Array:
    return jnp.where(x > 0, x, 1.0)


def channels(kernels: list[Array]) -> Array:
    """L2 norm over all the entries of scores or weights that make a channel.

    Args:
      kernels: `[..., count]`.

    Returns:
      `[count]`.
    """
    return jnp.sqrt(sum(jnp.sum(k * k, axis=range(k.ndim - 1)) for k in kernels))
