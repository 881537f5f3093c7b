"""The objective f of a run: the mean loss over all clients' examples, in blocks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data.pixels import Pixels
from jfedsl.engine.state import Data, RunSpec, weights
from jfedsl.models import layers
from jfedsl.models.layers import Params, Stats


class Examples(NamedTuple):
    """Training examples with their weights in f, in M blocks of E.

    Attributes:
      indices: int32 `[M, E]`, positions in the data.
      weights: float32 `[M, E]`, of sum 1; 0 on padding.
    """

    indices: Array
    weights: Array


def all_examples(spec: RunSpec, data: Data, block: int) -> Examples:
    """All examples: f weighs clients as aggregation does, and the examples of a client equally.

    Where tokens are predicted, it weighs the tokens of a client equally.

    Args:
      spec: specification of the run.
      data: training data with its partition.
      block: E, the number of examples computed at once.
    """
    part, positions = data.partition, jnp.arange(len(data.labels), dtype=jnp.int32)
    counts, shares = spec.task.weights(data.labels), weights(spec, part, jnp.arange(spec.clients))
    if counts is None:
        shares /= part.sizes.astype(jnp.float32)
    order = jnp.argsort(part.starts)
    owner = order[jnp.searchsorted(part.starts[order], positions, side="right") - 1]
    owned = (
        positions < part.starts[owner] + part.sizes[owner]
    )  # the others pad the shard of a device
    each = shares[owner]
    if counts is not None:
        counts = jnp.where(owned, counts, 0.0)
        totals = jax.ops.segment_sum(counts, owner, spec.clients)
        each *= counts / jnp.maximum(totals, 1)[owner]
    return _fold(positions, jnp.where(owned, each, 0.0), block)


def some_examples(examples: Examples, key: Array, count: int, block: int) -> Examples:
    """Random examples, with replacement, in proportion to their weights; all if they are no more.

    Args:
      examples: to draw from.
      key: scalar PRNG key.
      count: number of draws.
      block: E, the number of examples computed at once.
    """
    blocks, width = examples.indices.shape
    if -(-count // width) >= blocks:
        return examples
    drawn = jax.random.choice(key, examples.indices.ravel(), (count,), p=examples.weights.ravel())
    return _fold(drawn, jnp.full(count, 1.0 / count), block)


def _fold(indices: Array, weights: Array, block: int) -> Examples:
    """Examples `[N]` with their weights, padded and folded into blocks."""
    block = min(block, indices.size)
    missing = -indices.size % block
    padded = (jnp.pad(indices, (0, missing)), jnp.pad(weights, (0, missing)))
    return Examples(*(x.reshape(-1, block) for x in padded))


def block_loss(spec: RunSpec, data: Data, stats: Stats, params: Params, block: Examples) -> Array:
    """The weighted sum of losses of one block `[E]`, a part of f; no masks, no compression."""
    pixels: Pixels = data.pixels
    images = pixels.prepare(data.images[block.indices])
    logits, _ = layers.apply(spec.model, params, stats, images, False, spec.dtype)
    losses = spec.task.loss(logits, data.labels[block.indices])
    return jnp.sum(losses * block.weights)


def over_blocks(function: Callable[[Examples], Any], examples: Examples) -> Any:
    """The sum over all blocks of `function(block)`, a tree of arrays."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], examples))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, block: Examples) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(block)), None

    return lax.scan(add, start, examples)[0]
