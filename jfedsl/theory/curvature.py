"""Smoothness of a loss: its largest curvature, and the curvature along a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.theory.estimates import Estimate, exact
from jfedsl.theory.trees import inner, norm

Tree = Any
_ROUNDING = 2.0**-24  # of float32, relative


def largest_curvature(
    curve: Callable[[Tree], Tree], like: Tree, key: Array, iterations: int
) -> Estimate:
    """The spectral norm of a Hessian by power iteration.

    Args:
      curve: `direction -> Hessian times direction`.
      like: tree of arrays of the shapes of a direction.
      key: of the random first direction.
      iterations: number of products with the Hessian, at least 1.

    Returns:
      ||H u|| for the last unit direction u, which is at most the norm, with the residual
      ||H u - (u^T H u) u|| as error: an eigenvalue is within the residual of u^T H u.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]

    def step(_: int, carry: tuple[Tree, Array, Array]) -> tuple[Tree, Array, Array]:
        unit = _scaled(carry[0], 1 / norm(carry[0]))
        bent = curve(unit)
        along = inner(unit, bent)
        residual = norm(jax.tree.map(lambda b, u: b - along * u, bent, unit))
        # Where H u is 0, it is no direction, so u is kept.
        flat = norm(bent) == 0
        following = jax.tree.map(lambda b, u: jnp.where(flat, u, b), bent, unit)
        return following, norm(bent), residual

    start = (jax.tree.unflatten(structure, noise), jnp.zeros(()), jnp.zeros(()))
    _, value, residual = lax.fori_loop(0, iterations, step, start)
    return Estimate(value, residual)


def hessian_product(loss: Callable[[Tree], Array], params: Tree, direction: Tree) -> Tree:
    """The Hessian of a loss times a direction, by reverse over reverse mode.

    Not by forward over reverse: layers with custom gradients have no forward mode.
    """
    return jax.grad(lambda p: inner(jax.grad(loss)(p), direction))(params)


class Point(NamedTuple):
    """Weights, with the loss and its gradient at them."""

    params: Tree
    loss: Array
    gradient: Tree


def secant(start: Point, end: Point) -> Estimate:
    """The change of the gradient along a step d: ||g(w + d) - g(w)|| / ||d||; NaN if d is 0."""
    step, change = _changes(start, end)
    return exact(norm(change) / norm(step))


def rise(start: Point, end: Point) -> Estimate:
    """The least beta with which a step d is smooth: 2 (f(w + d) - f(w) - <g(w), d>) / ||d||^2.

    Its error is that of rounding f to float32. NaN where the error exceeds the secant, as it does
    if d is too short: the value could then be rounding alone.
    """
    step, change = _changes(start, end)
    square = inner(step, step)
    value = 2 * (end.loss - start.loss - inner(start.gradient, step)) / square
    error = 4 * _ROUNDING * jnp.maximum(jnp.abs(start.loss), jnp.abs(end.loss)) / square
    is_known = error < norm(change) / norm(step)
    return Estimate(jnp.where(is_known, value, jnp.nan), jnp.where(is_known, error, jnp.nan))


def _changes(start: Point, end: Point) -> tuple[Tree, Tree]:
    """The step between two points, and the change of the gradient."""
    step = jax.tree.map(jnp.subtract, end.params, start.params)
    return step, jax.tree.map(jnp.subtract, end.gradient, start.gradient)


def _scaled(tree: Tree, by: Array) -> Tree:
    return jax.tree.map(lambda x: x * by, tree)
