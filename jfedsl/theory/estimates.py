"""Values with their standard errors, from independent repetitions along the first axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Estimate(NamedTuple):
    """A value and its standard error; NaN where nothing could be seen."""

    value: Array
    error: Array


def without_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with infinity for NaN, which JAX_DEBUG_NANS would take for a mistake."""

    def given(*arguments: Any) -> Any:
        found = function(*arguments)
        return jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), found)

    return given


def exact(value: Array) -> Estimate:
    """What was computed, not estimated."""
    return Estimate(value, jnp.zeros_like(value))


def mean(values: Array) -> Estimate:
    """Of independent values along the first axis."""
    error = jnp.std(values, axis=0, ddof=1) / jnp.sqrt(len(values))
    return Estimate(jnp.mean(values, axis=0), error)


def ratio(values: Array, by: Array) -> Estimate:
    """Of means over the first axis, with the error of its linearisation; NaN over 0."""
    below = jnp.mean(by)
    value = jnp.mean(values) / below
    return Estimate(value, mean((values - value * by) / below).error)


def secant(squares: Array, moved: Array) -> Estimate:
    """The root of a change's mean square over what moved; NaN where nothing did.

    Args:
      squares: of the change, one an independent repetition; single ones may be negative.
      moved: squared distance that caused it.
    """
    square = mean(squares / jnp.where(moved > 0, moved, jnp.nan))
    value = jnp.sqrt(jnp.maximum(square.value, 0.0))  # it may come out below 0
    return Estimate(value, jnp.sqrt(value**2 + square.error) - value)
