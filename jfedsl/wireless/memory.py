"""What a client's part takes of its device's memory, from shapes alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jfedsl.models.layers import Model, Params, Stats


class Memory(NamedTuple):
    """Bytes that a client needs to train its part.

    Attributes:
      parameters: weights and normalisation statistics, float32.
      gradients: as many as weights.
      optimizer: moments and counters.
      activations: what every layer makes of one batch, and the batch itself, kept for the backward
        pass.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def client_memory(
    model: Model,
    params: Params,
    stats: Stats,
    init_optimizer: Callable[[Params], Any],
    x: jax.ShapeDtypeStruct,
    activation_bytes: int,
) -> Memory:
    """The memory of a client with these layers, at the widths they have.

    Args:
      model: the client-side layers.
      params: of these, shapes.
      stats: likewise.
      init_optimizer: `params -> state`.
      x: a batch `[B, ...]`.
      activation_bytes: of an entry of an activation.
    """
    activations = math.prod(x.shape) * x.dtype.itemsize
    for layer, p, s in zip(model, params, stats, strict=True):
        x = jax.eval_shape(lambda p, s, x, f=layer.apply: f(p, s, x, True)[0], p, s, x)
        activations += math.prod(x.shape) * activation_bytes
    weights = _bytes(params)
    optimizer = _bytes(jax.eval_shape(init_optimizer, params))
    return Memory(weights + _bytes(stats), weights, optimizer, activations)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
