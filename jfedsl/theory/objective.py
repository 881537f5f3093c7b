"""The objective f of a run: the mean loss over all clients' examples, in blocks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data.datasets import Pixels
from jfedsl.engine.state import Data, RunSpec, weights
from jfedsl.models import layers
from jfedsl.models.layers import Params, Stats


class Examples(NamedTuple):
    """Training examples with their weights in f, folded into blocks.

    Attributes:
      indices: int32 `[M, E]`, positions in the data.
      weights: float32 `[M, E]`, sum 1; 0 on padding.
    """

    indices: Array
    weights: Array


def all_examples(spec: RunSpec, data: Data, block: int) -> Examples:
    """Every example of every client; f weighs clients as aggregation does, examples equally.

    Args:
      spec: of the run.
      data: of the run.
      block: examples computed at once.
    """
    part, positions = data.partition, jnp.arange(data.labels.size, dtype=jnp.int32)
    shares = weights(spec, part, jnp.arange(spec.clients)) / part.sizes.astype(jnp.float32)
    order = jnp.argsort(part.starts)
    owner = order[jnp.searchsorted(part.starts[order], positions, side="right") - 1]
    owned = positions < part.starts[owner] + part.sizes[owner]  # else it fills a device up
    return _fold(positions, jnp.where(owned, shares[owner], 0.0), block)


def some_examples(examples: Examples, key: Array, count: int, block: int) -> Examples:
    """Examples drawn with replacement in proportion to their weights; all if that is no more work.

    Args:
      examples: to draw from.
      key: of the draw.
      count: how many.
      block: examples computed at once.
    """
    blocks, width = examples.indices.shape
    if -(-count // width) >= blocks:
        return examples
    drawn = jax.random.choice(key, examples.indices.ravel(), (count,), p=examples.weights.ravel())
    return _fold(drawn, jnp.full(count, 1.0 / count), block)


def _fold(indices: Array, each: Array, block: int) -> Examples:
    block = min(block, indices.size)
    missing = -indices.size % block
    padded = (jnp.pad(indices, (0, missing)), jnp.pad(each, (0, missing)))
    return Examples(*(x.reshape(-1, block) for x in padded))


def block_loss(spec: RunSpec, data: Data, stats: Stats, params: Params, block: Examples) -> Array:
    """The part of f that one block `[E]` adds, without masks or compression."""
    pixels: Pixels = data.pixels
    images = pixels.normalise(data.images[block.indices])
    logits, _ = layers.apply(spec.model, params, stats, images, False, spec.dtype)
    losses = spec.task.loss(logits, data.labels[block.indices])
    return jnp.sum(losses * block.weights)


def over_blocks(function: Callable[[Examples], Any], examples: Examples) -> Any:
    """The sum over blocks of a function of one block."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], examples))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, block: Examples) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(block)), None

    return lax.scan(add, start, examples)[0]
