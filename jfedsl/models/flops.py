"""Arithmetic of layers, from shapes alone."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jfedsl.models.layers import Layer, Model, Params, Stats
from jfedsl.nn.reference import plain_operations


def product_flops(
    model: Model, params: Params, stats: Stats, image: tuple[int, ...]
) -> list[tuple[int, int]]:
    """FLOPs of the convolutions and dense layers for one example, in each layer.

    A multiply-add is 2 FLOPs; of a convolution every tap counts, those on padding too. Everything
    else, such as normalisation, counts nothing.

    Args:
      model: all layers, or the first few.
      params: parameters of each layer, arrays or shapes.
      stats: batch-norm statistics of each layer, arrays or shapes; empty where a layer has none.
      image: shape of one input.

    Returns:
      For each layer the FLOPs of a forward pass and of a backward pass: as many for the gradient by
      the weights, and again for that by the input of every layer but the first that has any.
    """
    forward = []
    x = jax.ShapeDtypeStruct((1, *image), "float32")
    for layer, p, s in zip(model, params, stats, strict=True):
        counted: list[int] = []
        with nn.intercept_methods(_counter(counted)):
            x = jax.eval_shape(lambda p, s, x, f=layer.apply: f(p, s, x, False)[0], p, s, x)
        forward.append(sum(counted))
    first = next((i for i, flops in enumerate(forward) if flops), 0)
    return [(flops, flops if i == first else 2 * flops) for i, flops in enumerate(forward)]


def layer_flops(
    model: Model, params: Params, stats: Stats, x: jax.ShapeDtypeStruct, trained_input: bool
) -> np.ndarray:
    """FLOPs of each layer on one batch, as XLA's cost analysis counts them in plain lax operations.

    A multiply-add is 2 FLOPs; of a convolution only taps inside of the image count; elementwise
    arithmetic counts one an entry. Nothing is run or compiled: each layer is lowered alone.

    Args:
      model: all layers, or some in a row.
      params: parameters of each layer, arrays or shapes.
      stats: batch-norm statistics of each layer, arrays or shapes; empty where a layer has none.
      x: their input `[B, ...]`.
      trained_input: whether something before these layers needs the gradient of their input.

    Returns:
      float64 `[L, 2]`, the forward and the backward pass of each layer.
    """
    counts = []
    needs_input = trained_input
    for layer, p, s in zip(model, params, stats, strict=True):

        def forward(p: Params, x: Array, s: Stats, layer: Layer = layer) -> Array:
            y = layer.apply(p, s, x, True)[0]
            return y if layer.activation is None else layer.activation(y)

        def both(
            p: Params, x: Array, s: Stats, f: Any = forward, wanted: bool = needs_input
        ) -> Any:
            if wanted:
                y, back = jax.vjp(lambda p, x: f(p, x, s), p, x)
            else:
                y, back = jax.vjp(lambda p: f(p, x, s), p)
            return y, back(jnp.ones_like(y))

        own = bool(jax.tree.leaves(p))
        with plain_operations():
            there = _lowered_flops(forward, p, x, s)
            back = _lowered_flops(both, p, x, s) - there if own or needs_input else 0.0
            x = jax.eval_shape(forward, p, x, s)
        counts.append((there, back))
        needs_input = needs_input or own
    return np.array(counts, np.float64).reshape(-1, 2)


def _lowered_flops(function: Callable[..., Any], *arguments: Any) -> float:
    counted = jax.jit(function).lower(*arguments).cost_analysis() or {}
    return max(0.0, float(counted.get("flops", 0.0)))


def _counter(counted: list[int]) -> Any:
    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        y = run(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Conv | nn.Dense):
            kernel = context.module.variables["params"]["kernel"]
            counted.append(2 * kernel.size * math.prod(y.shape[1:-1]))
        return y

    return intercept
