"""FLOPs of the layers of a model, from shapes alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.models import layers
from jfedsl.models.layers import Layer, Model, Params, Variables
from jfedsl.models.products import products
from jfedsl.nn.lax_only import lax_only


def product_flops(
    model: Model, variables: Variables, image: tuple[int, ...], trained_input: bool = False
) -> list[tuple[int, int]]:
    """FLOPs of the products of each layer for one example: dense, convolution, attention.

    A multiply-add is 2 FLOPs. All taps of a convolution count, those on padding too, and so do
    padded positions of sequences. Other operations, such as normalisation, do not count.

    Args:
      model: all layers of a model, or its first few.
      variables: of these layers, arrays or shapes.
      image: shape of one input.
      trained_input: whether the backward pass needs the gradient by the input.

    Returns:
      (forward, backward) FLOPs of each layer. In the backward pass a product counts once for each
      of its operands that depends on parameters, of its own layer or of an earlier one. Frozen
      variables and inputs without a gradient, such as images and token ids, cost nothing there.
    """
    flops = []
    x, needs_input_gradient = jax.ShapeDtypeStruct((1, *image), "float32"), trained_input
    for layer, held in layers.by_layer(model, variables):

        def run(held: Variables, x: Array, layer: Layer = layer) -> Array:
            return layers.bound(layer, held.frozen).apply(held.params, held.stats, x, True)[0]

        with lax_only():
            program, y = jax.make_jaxpr(run, return_shape=True)(held, x)
        trained, *others = (len(jax.tree.leaves(part)) for part in held)
        flags = [True] * trained + [False] * sum(others) + [needs_input_gradient]
        counted = products(program.jaxpr, flags)
        flops.append((counted.forward, counted.backward))
        x, (needs_input_gradient,) = y, counted.needs_gradient
    return flops


def layer_flops(
    model: Model, variables: Variables, x: jax.ShapeDtypeStruct, trained_input: bool
) -> np.ndarray:
    """FLOPs of each layer on one batch, as XLA's cost analysis counts them for lax operations.

    A multiply-add is 2 FLOPs. Of a convolution only taps inside of the image count. Elementwise
    arithmetic counts one FLOP an entry. Padded positions of sequences count. Nothing is run or
    compiled: each layer is lowered alone.

    Args:
      model: consecutive layers.
      variables: of these layers, arrays or shapes.
      x: input `[B, ...]` of the first layer.
      trained_input: whether the backward pass needs the gradient by `x`.

    Returns:
      float64 `[L, 2]`, the forward and the backward pass of each layer. The backward pass computes
      gradients by `params` and, where an earlier layer has any, by the layer's input; it is 0 of
      a layer that needs neither.
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
            forward_flops, backward_flops = lowered_flops(forward, p, x, rest), 0.0
            if has_weights or needs_input_gradient:
                backward_flops = lowered_flops(forward_and_backward, p, x, rest) - forward_flops
            x = jax.eval_shape(forward, p, x, rest)
        flops.append((forward_flops, backward_flops))
        needs_input_gradient = needs_input_gradient or has_weights
    return np.array(flops, np.float64).reshape(-1, 2)


def lowered_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of a function of arrays or shapes, as XLA's cost analysis counts them."""
    costs = jax.jit(function).lower(*arguments).cost_analysis() or {}
    return max(0.0, float(costs.get("flops", 0.0)))
