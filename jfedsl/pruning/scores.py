"""How much a weight or a channel matters; the least are pruned first."""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.keys import fold


def magnitude(weights: list[Array]) -> list[Array]:
    """|w| of every weight."""
    return [jnp.abs(w) for w in weights]


def random(key: Array, weights: list[Array]) -> list[Array]:
    """Uniform draws, one a weight."""
    return [jax.random.uniform(fold(key, i), w.shape, w.dtype) for i, w in enumerate(weights)]


def taylor(
    last: list[Array], before: list[Array], after: list[Array], kept: list[Array]
) -> list[Array]:
    """|w * dw|, the first-order change of the loss up to the learning rate (arXiv 1906.10771).

    Args:
      last: scores so far; they stay where nobody kept the weight.
      before: aggregated weights at the previous aggregation.
      after: aggregated weights now.
      kept: bool, whether any participant kept the weight.
    """
    return [
        jnp.where(k, jnp.abs(a * (a - b)), s)
        for s, b, a, k in zip(last, before, after, kept, strict=True)
    ]


def channels(kernels: list[Array]) -> Array:
    """L2 norm over all the entries of scores or weights that make a channel.

    Args:
      kernels: `[..., count]`.

    Returns:
      `[count]`.
    """
    return jnp.sqrt(sum(jnp.sum(k * k, axis=range(k.ndim - 1)) for k in kernels))
