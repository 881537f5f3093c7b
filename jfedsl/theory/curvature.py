"""Smoothness of a loss: its largest curvature, and what a step from one point to another shows."""

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
      like: a tree of the shapes of a direction.
      key: of the first direction.
      iterations: products with the Hessian, at least 1.

    Returns:
      ||H u|| for the last unit direction u, never above the norm, and the residual
      ||H u - (u^T H u) u||, 0 at an eigenvector: an eigenvalue lies that close to u^T H u.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]

    def step(_: int, carry: tuple[Tree, Array, Array]) -> tuple[Tree, Array, Array]:
        unit = _scaled(carry[0], 1 / norm(carry[0]))
        bent = curve(unit)
        along = inner(unit, bent)
        residual = norm(jax.tree.map(lambda b, u: b - along * u, bent, unit))
        # Of a Hessian of zeros every direction is the sharpest.
        flat = norm(bent) == 0
        following = jax.tree.map(lambda b, u: jnp.where(flat, u, b), bent, unit)
        return following, norm(bent), residual

    start = (jax.tree.unflatten(structure, noise), jnp.zeros(()), jnp.zeros(()))
    _, value, residual = lax.fori_loop(0, iterations, step, start)
    return Estimate(value, residual)


def hessian_product(loss: Callable[[Tree], Array], params: Tree, direction: Tree) -> Tree:
    """The Hessian of a loss times a direction, by reverse over reverse.

    Layers with gradients of their own have no forward mode.
    """
    return jax.grad(lambda p: inner(jax.grad(loss)(p), direction))(params)


class Point(NamedTuple):
    """Weights, with the loss and its gradient there."""

    params: Tree
    loss: Array
    gradient: Tree


def secant(start: Point, end: Point) -> Estimate:
    """How fast the gradient changes along a step d: ||g(w + d) - g(w)|| / ||d||; NaN if d is 0."""
    step, change = _changes(start, end)
    return exact(norm(change) / norm(step))


def rise(start: Point, end: Point) -> Estimate:
    """The least beta that a step d needs: 2 (f(w + d) - f(w) - <g(w), d>) / ||d||^2.

    Its error is that of rounding f to float32. NaN where that could be all there is to see: where
    it exceeds the secant, as it does if d is too short.
    """
    step, change = _changes(start, end)
    square = inner(step, step)
    value = 2 * (end.loss - start.loss - inner(start.gradient, step)) / square
    error = 4 * _ROUNDING * jnp.maximum(jnp.abs(start.loss), jnp.abs(end.loss)) / square
    seen = error < norm(change) / norm(step)
    return Estimate(jnp.where(seen, value, jnp.nan), jnp.where(seen, error, jnp.nan))


def _changes(start: Point, end: Point) -> tuple[Tree, Tree]:
    """The step between two points, and the change of the gradient."""
    step = jax.tree.map(jnp.subtract, end.params, start.params)
    return step, jax.tree.map(jnp.subtract, end.gradient, start.gradient)


def _scaled(tree: Tree, by: Array) -> Tree:
    return jax.tree.map(lambda x: x * by, tree)
