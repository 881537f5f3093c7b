"""Values with their standard errors, from independent repetitions along the first axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Estimate(NamedTuple):
    """A value and its standard error; NaN where the data cannot tell it."""

    value: Array
    error: Array


def without_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with infinity in place of NaN, which JAX_DEBUG_NANS would report."""

    def wrapped(*arguments: Any) -> Any:
        result = function(*arguments)
        return jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), result)

    return wrapped


def exact(value: Array) -> Estimate:
    """A value that is computed, not estimated: its error is 0."""
    return Estimate(value, jnp.zeros_like(value))


def mean(values: Array) -> Estimate:
    """The mean of independent values along the first axis."""
    error = jnp.std(values, axis=0, ddof=1) / jnp.sqrt(len(values))
    return Estimate(jnp.mean(values, axis=0), error)


def ratio(values: Array, by: Array) -> Estimate:
    """The ratio of two means over the first axis; its error is linearized. NaN over 0."""
    below = jnp.mean(by)
    value = jnp.mean(values) / below
    return Estimate(value, mean((values - value * by) / below).error)


def secant(squares: Array, moved: Array) -> Estimate:
    """The root of the mean square of a change over a squared distance; NaN where that is 0.

    Args:
      squares: estimates of the squared change, one for each repetition; they may be negative.
      moved: squared distance that causes the change.
    """
    square = mean(squares / jnp.where(moved > 0, moved, jnp.nan))
    value = jnp.sqrt(jnp.maximum(square.value, 0.0))  # the mean of the estimates may be negative
    return Estimate(value, jnp.sqrt(value**2 + square.error) - value)
