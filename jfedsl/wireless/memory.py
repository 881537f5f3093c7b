"""Memory that a client needs to train its layers, from shapes alone."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model, Params, Stats, Variables
from jfedsl.models.vjp_residuals import residual_bytes
from jfedsl.nn.int8 import int8_backward


class Memory(NamedTuple):
    """Bytes that a client needs at the beginning of its backward pass.

    Recomputing the forward pass does not save any: it frees memory while the server computes, but
    the whole forward pass runs again before the backward pass begins.

    Not counted are workspace of single operations, the gradient passed from layer to layer, packed
    messages, states of compressors, masks, and the data set.

    Attributes:
      parameters: weights and normalisation statistics, float32, and frozen variables, as they are.
      gradients: gradients of the weights, float32.
      optimizer: state of the optimizer.
      batch: inputs of one batch.
      residuals: arrays that the forward pass computes and the backward pass reads. Of layers before
        the first one with parameters it reads none.
      cut_gradient: gradient of the activations at the cut, float32. The activations take as much at
        the end of the forward pass, and are freed before the gradient arrives. A client without
        parameters has no backward pass: this is then its activations alone.
    """

    parameters: int
    gradients: int
    optimizer: int
    batch: int
    residuals: int
    cut_gradient: int

    @property
    def total(self) -> int:
        """Sum of all fields."""
        return sum(self)


def client_memory(
    model: Model,
    variables: Variables,
    init_optimizer: Callable[[Params], Any],
    x: jax.ShapeDtypeStruct,
    dtype: DTypeLike,
    integers: bool = False,
) -> Memory:
    """The memory of a client, with residuals counted for lax operations.

    Args:
      model: the client-side layers, with the widths that they have after pruning channels; all
        layers where nothing is cut.
      variables: of these layers, shapes.
      init_optimizer: `params -> state`.
      x: shape and dtype of a batch `[B, ...]`.
      dtype: that parameters and activations are rounded to; rounded copies count.
      integers: whether the backward pass is in int8, so that its operands are kept as codes.
    """

    def run(params: Params, stats: Stats, frozen: Frozen, x: Array) -> tuple[Array, Stats]:
        mode = int8_backward(jax.random.key(0)) if integers else contextlib.nullcontext()
        with mode:
            held = layers.with_frozen(model, frozen)
            return layers.apply(held, params, stats, x, True, dtype)

    residuals, output = residual_bytes(run, *variables, x)
    weights = _bytes(variables.params)
    return Memory(
        parameters=_bytes(variables),
        gradients=weights,
        optimizer=_bytes(jax.eval_shape(init_optimizer, variables.params)),
        batch=math.prod(x.shape) * x.dtype.itemsize,
        residuals=residuals,
        cut_gradient=output,
    )


def while_fitted(memory: Memory, gradient: Any, params: Params, *inputs: Any) -> Memory:
    """The memory of layers that are, besides training, fitted to a gradient at their input.

    The fit has an optimizer state of its own. The gradient to fit to lies where that of the
    activation will be when the fit is over.

    Args:
      memory: of these layers in training.
      gradient: `(params, *inputs) -> gradient` of their loss at their input.
      params: of these layers, arrays or shapes.
      *inputs: trees of arrays or shapes.
    """
    residuals, output = residual_bytes(lambda *given: (gradient(*given), None), params, *inputs)
    return memory._replace(
        optimizer=2 * memory.optimizer,
        residuals=max(memory.residuals, residuals),
        cut_gradient=max(memory.cut_gradient, output),
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
