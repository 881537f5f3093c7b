"""What a client's part takes of its device's memory, from shapes alone."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Model, Params, Stats
from jfedsl.models.vjp_residuals import residual_bytes
from jfedsl.nn.int8 import int8_backward


class Memory(NamedTuple):
    """Bytes that a client needs to train its part.

    They are needed when the backward pass begins and all that it reads is there. Recomputation
    saves none of them: it frees memory only while the server computes, as the whole forward pass
    is computed again before the backward pass begins.

    Not counted: what single operations need while they run, and the gradient that passes from layer
    to layer; messages as they are packed; what compressors remember; masks; the data set.

    Attributes:
      parameters: weights and normalisation statistics, float32.
      gradients: as many as weights.
      optimizer: moments and counters.
      batch: the inputs of one batch.
      residuals: what the forward pass computes and the backward pass reads.
      cut_gradient: of the activations at the cut, float32, as the backward pass receives it. The
        activations themselves take as much when the forward pass ends, and are gone by then.
    """

    parameters: int
    gradients: int
    optimizer: int
    batch: int
    residuals: int
    cut_gradient: int

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
    dtype: DTypeLike,
    integers: bool = False,
) -> Memory:
    """The memory of a client with these layers, at the widths they have, in plain operations.

    Args:
      model: the client-side layers; all layers where nothing is cut.
      params: of these, shapes.
      stats: likewise.
      init_optimizer: `params -> state`.
      x: a batch `[B, ...]`.
      dtype: that parameters and activations are rounded to; the rounded copies count.
      integers: whether products of the backward pass are of int8, whose operands wait as codes.
    """

    def run(params: Params, stats: Stats, x: Array) -> tuple[Array, Stats]:
        mode = int8_backward(jax.random.key(0)) if integers else contextlib.nullcontext()
        with mode:
            return layers.apply(model, params, stats, x, True, dtype)

    residuals, output = residual_bytes(run, params, stats, x)
    weights = _bytes(params)
    return Memory(
        parameters=weights + _bytes(stats),
        gradients=weights,
        optimizer=_bytes(jax.eval_shape(init_optimizer, params)),
        batch=math.prod(x.shape) * x.dtype.itemsize,
        residuals=residuals,
        cut_gradient=output,
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
