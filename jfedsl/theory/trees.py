"""Inner products of trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def inner(a: Any, b: Any) -> Array:
    """The inner product of two trees of the same shapes, a scalar; 0 for trees without arrays."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def inner_by_layer(a: tuple[Any, ...], b: tuple[Any, ...]) -> Array:
    """The inner products of the layers of two trees, `[L]`."""
    return jnp.stack([inner(*pair) for pair in zip(a, b, strict=True)])


def norm(tree: Any) -> Array:
    """The Euclidean norm of a tree."""
    return jnp.sqrt(inner(tree, tree))
