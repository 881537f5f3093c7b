"""Smoothness of a loss: its largest curvature, and how fast its gradient changes along a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.theory.estimates import Estimate
from jfedsl.theory.trees import inner, norm

Tree = Any


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


def secant(gradient: Callable[[Tree], Tree], params: Tree, at: Tree, step_size: float) -> Array:
    """How fast the gradient changes along a gradient step: ||dg|| / ||dw||; NaN if that is 0.

    Args:
      gradient: of the loss.
      params: where the step starts.
      at: the gradient there.
      step_size: of the step, more than 0.
    """
    there = gradient(jax.tree.map(lambda w, g: w - step_size * g, params, at))
    change = norm(jax.tree.map(jnp.subtract, there, at))
    return change / (step_size * norm(at))


def _scaled(tree: Tree, by: Array) -> Tree:
    return jax.tree.map(lambda x: x * by, tree)
