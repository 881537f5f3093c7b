"""FLOPs of the layers of a model, from shapes alone."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jfedsl.models import layers
from jfedsl.models.layers import Layer, Model, Params, Variables
from jfedsl.nn.lax_only import lax_only


def product_flops(
    model: Model, variables: Variables, image: tuple[int, ...]
) -> list[tuple[int, int]]:
    """FLOPs of the convolutions and dense layers for one example, in each layer.

    A multiply-add is 2 FLOPs. All taps of a convolution count, those on padding too. Other
    operations, such as normalisation, do not count.

    Args:
      model: all layers of a model, or its first few.
      variables: of these layers, arrays or shapes.
      image: shape of one input.

    Returns:
      (forward, backward) FLOPs of each layer. The backward pass takes as many as the forward pass
      for the gradient by the weights, and as many again for the gradient by the input, which the
      first layer with weights does not need.
    """
    forward = []
    x = jax.ShapeDtypeStruct((1, *image), "float32")
    for layer, variables_of_layer in layers.by_layer(model, variables):

        def run(held: Variables, x: Array, layer: Layer = layer) -> Array:
            apply = layers.bound(layer, held.frozen).apply
            return apply(held.params, held.stats, x, False)[0]

        module_flops: list[int] = []
        with nn.intercept_methods(_count_into(module_flops)):
            x = jax.eval_shape(run, variables_of_layer, x)
        forward.append(sum(module_flops))
    first = next((i for i, flops in enumerate(forward) if flops), 0)
    return [(flops, flops if i == first else 2 * flops) for i, flops in enumerate(forward)]


def layer_flops(
    model: Model, variables: Variables, x: jax.ShapeDtypeStruct, trained_input: bool
) -> np.ndarray:
    """FLOPs of each layer on one batch, as XLA's cost analysis counts them for lax operations.

    A multiply-add is 2 FLOPs. Of a convolution only taps inside of the image count. Elementwise
    arithmetic counts one FLOP an entry. Nothing is run or compiled: each layer is lowered alone.

    Args:
      model: consecutive layers.
      variables: of these layers, arrays or shapes.
      x: input `[B, ...]` of the first layer.
      trained_input: whether the backward pass needs the gradient by `x`.

    Returns:
      float64 `[L, 2]`, the forward and the backward pass of each layer.
    """
    flops = []
    needs_input_gradient = trained_input
    for layer, held in layers.by_layer(model, variables):

        def forward(p: Params, x: Array, inner: Variables, layer: Layer = layer) -> Array:
            y = layers.bound(layer, inner.frozen).apply(p, inner.stats, x, True)[0]
            return y if layer.activation is None else layer.activation(y)

        def forward_and_backward(
            p: Params,
            x: Array,
            inner: Variables,
            f: Any = forward,
            by_input: bool = needs_input_gradient,
        ) -> Any:
            if by_input:
                y, vjp = jax.vjp(lambda p, x: f(p, x, inner), p, x)
            else:
                y, vjp = jax.vjp(lambda p: f(p, x, inner), p)
            return y, vjp(jnp.ones_like(y))

        p, rest = held.params, held._replace(params=())
        has_weights = bool(jax.tree.leaves(p))
        with lax_only():
            forward_flops, backward_flops = _lowered_flops(forward, p, x, rest), 0.0
            if has_weights or needs_input_gradient:
                backward_flops = _lowered_flops(forward_and_backward, p, x, rest) - forward_flops
            x = jax.eval_shape(forward, p, x, rest)
        flops.append((forward_flops, backward_flops))
        needs_input_gradient = needs_input_gradient or has_weights
    return np.array(flops, np.float64).reshape(-1, 2)


def _lowered_flops(function: Callable[..., Any], *arguments: Any) -> float:
    costs = jax.jit(function).lower(*arguments).cost_analysis() or {}
    return max(0.0, float(costs.get("flops", 0.0)))


def _count_into(module_flops: list[int]) -> Any:
    """An interceptor that appends the forward FLOPs of each convolution and dense module."""

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        y = run(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense):
            kernel = context.module.variables["params"]["kernel"]
            module_flops.append(2 * kernel.size * math.prod(y.shape[1:-1]))
        return y

    return intercept
