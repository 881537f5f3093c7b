"""Arithmetic of layers, from shapes alone."""

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from jfedsl.models.layers import Model, Params, Stats


def product_flops(
    model: Model, params: Params, stats: Stats, image: tuple[int, ...]
) -> list[tuple[int, int]]:
    """FLOPs of the convolutions and dense layers for one example, in each layer.

    A multiply-add is 2 FLOPs; of a convolution every tap counts, those on padding too. Everything
    else, such as normalisation, counts nothing.

    Args:
      model: all layers, or the first few.
      params: of these layers, arrays or shapes.
      stats: likewise.
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
