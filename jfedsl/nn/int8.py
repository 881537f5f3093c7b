"""Backward passes in int8, as on hardware with integer arithmetic.

The gradient of a dense layer or a convolution by its input `x` is a product of the output's
gradient `dy` with the kernel `w`; the gradient by `w` is a product of `dy` with `x`. Here each
array is rounded to int8 codes and a scale, and products of codes are summed in int32. `dy` is
rounded stochastically, so that gradients are unbiased given the rounded `x` and `w`.

On CPUs and GPUs codes are multiplied as float32, in sums too short for float32 to round: the same
sums to the bit. On a CPU XLA takes more time for int8. On a GPU its int8 products may be twice the
sum (jax 0.11.2 on an H200, CUDA 13.0); docs/design/performance_gpu.md has the sizes and the cause.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from jfedsl.keys import fold
from jfedsl.nn import conv_forms
from jfedsl.nn.conv_forms import Window, dilated_extent, lax_convolution
from jfedsl.nn.platform import platform

_MAX_CODE = 127  # codes are -127, ..., 127
# The most products of two codes whose every partial sum is exact, in float32 and in int32.
_FLOAT_TERMS, _INT_TERMS = 2**24 // _MAX_CODE**2, (2**31 - 1) // _MAX_CODE**2
# On CPU, convolutions in more parts, or of fewer input channels, are slower than one product.
_MOST_PARTS, _LEAST_CHANNELS = 16, 16
_DENSE = Window((), (), (), ())  # a dense layer is a convolution without spatial dimensions
# The field of a module that holds the operation which computes its products.
_OPERATION_FIELDS = {nn.Dense: "dot_general", nn.Conv: "conv_general_dilated"}


@contextlib.contextmanager
def int8_backward(key: Array) -> Iterator[None]:
    """Makes every `nn.Dense` and `nn.Conv` applied inside compute its backward products in int8.

    Outputs are unchanged to the bit, and gradients of biases stay float. Each tensor has one scale,
    its largest magnitude over 127. `dy` is rounded stochastically, once for both products. `x` and
    `w` are rounded to the nearest code, and only their codes are kept for the backward pass. Sums
    of more than 133144 products are float32 sums of exact int32 parts. NaN or infinity in an
    operand makes the whole product NaN. Only first derivatives in reverse mode are meaningful.

    The backward pass stays in float for grouped convolutions, dilated inputs, operands of different
    or non-real dtypes, and modules with a `dot_general_cls` or `conv_general_dilated_cls`.

    >>> dense, x = nn.Dense(2), jnp.ones((4, 3))
    >>> params = dense.init(jax.random.key(0), x)
    >>> with int8_backward(jax.random.key(1)):
    ...     gradient = jax.grad(lambda p: dense.apply(p, x).sum())(params)
    >>> gradient["params"]["kernel"].shape
    (3, 2)

    Args:
      key: scalar PRNG key, for one backward pass. The n-th call of a module, in the order of
        tracing, draws from fold(key, n). Flax's `nn.scan` and `nn.vmap` trace a call once, so all
        its iterations draw the same numbers.
    """
    calls = itertools.count()

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        field = next(
            (name for kind, name in _OPERATION_FIELDS.items() if isinstance(module, kind)), None
        )
        if context.method_name != "__call__" or not field or getattr(module, f"{field}_cls"):
            return run(*args, **kwargs)
        original, wrap = getattr(module, field), _dense if isinstance(module, nn.Dense) else _conv
        in_int8 = partial(wrap, original or getattr(lax, field), fold(key, next(calls)))
        # A bound module is a frozen copy of the user's, but may be called again: set, then restore.
        object.__setattr__(module, field, in_int8)
        try:
            return run(*args, **kwargs)
        finally:
            object.__setattr__(module, field, original)

    with nn.intercept_methods(intercept):
        yield


def _dense(operation: Any, key: Array, x: Array, w: Array, *args: Any, **options: Any) -> Array:
    """A `dot_general` of `x[..., D]` and `w[D, F]`, called as `nn.Dense` does."""
    return _int8(lambda x, w: operation(x, w, *args, **options), _DENSE, x, w, key)


def _conv(
    operation: Any, key: Array, x: Array, w: Array, strides: Any, padding: Any, **options: Any
) -> Array:
    """A convolution of `x[B, ..., Cin]` and `w[..., Cin, Cout]`, called as `nn.Conv` does."""
    input_dilation, dilation = tuple(options["lhs_dilation"]), tuple(options["rhs_dilation"])
    if options["feature_group_count"] != 1 or set(input_dilation) != {1}:
        return operation(x, w, strides, padding, **options)
    pads = padding
    if isinstance(padding, str):
        extents = [*map(dilated_extent, w.shape[:-2], dilation)]
        pads = lax.padtype_to_pads(x.shape[1:-1], extents, strides, padding)
    pairs = tuple((low, high) for low, high in pads)
    window = Window(tuple(strides), pairs, input_dilation, dilation)
    return _int8(lambda x, w: operation(x, w, strides, padding, **options), window, x, w, key)


def _int8(product: Any, window: Window, x: Array, w: Array, key: Array) -> Array:
    """`product(x, w)`, with the backward pass in int8 if both are real and of one dtype."""
    if x.dtype != w.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return product(x, w)

    def forward(x: Any, w: Any, key: Any) -> tuple[Array, Any]:
        # Only the gradient by x reads the kernel, and the first layer's input needs no gradient.
        kernel = _quantize(w.value) if x.perturbed else None
        return product(x.value, w.value), (_quantize(x.value), kernel, key.value)

    run = jax.custom_vjp(lambda x, w, key: product(x, w))
    run.defvjp(forward, partial(_backward, window, jax.typeof(w)), symbolic_zeros=True)
    return run(x, w, key)


def _backward(window: Window, kernel: Any, residuals: Any, dy: Array) -> tuple[Any, Array, Any]:
    """Gradients by `x`, `w` and key; `kernel` has the shape and the dtype of `w`."""
    (x, x_scale), w, key = residuals
    dy, dy_scale = _quantize(dy, key)
    # All leading axes are one batch axis: nn.Dense takes `[..., D]`.
    axes = slice(-1 - len(window.strides), None)
    x_batch, dy_batch = (codes.reshape(-1, *codes.shape[axes]) for codes in (x, dy))
    dw, dx = _weight_gradient(x_batch, dy_batch, window, kernel.shape), None
    dw = (dw.astype(jnp.float32) * (dy_scale * x_scale)).astype(kernel.dtype)
    if w is not None:
        w_codes, w_scale = w
        dx = _input_gradient(dy_batch, w_codes, window, x_batch.shape[1:-1]).reshape(x.shape)
        dx = (dx.astype(jnp.float32) * (dy_scale * w_scale)).astype(kernel.dtype)
    return dx, dw, np.zeros(key.shape, jax.dtypes.float0)


def _quantize(x: Array, key: Array | None = None) -> tuple[Array, Array]:
    """int8 codes of `x`, in its shape, and their scale, float32 `[]`.

    Without a key codes are the nearest. With one they are rounded up or down at random, by 16-bit
    draws, so that the expected code is off by 2^-17 at most.
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), initial=0.0) / _MAX_CODE
    t = x / jnp.where(scale == 0, 1.0, scale)
    codes = jnp.round(t) if key is None else jnp.floor(t)
    if key is not None:
        # Two draws from each word, as generating words takes most of the time.
        words = jax.random.bits(key, (-(-x.size // 2),), jnp.uint32)
        draws = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
        codes += ((draws.astype(jnp.float32) + 0.5) / 2**16 < t - codes).astype(jnp.float32)
    codes = jnp.clip(codes, -_MAX_CODE, _MAX_CODE).astype(jnp.int8)
    # int8 has no NaN: the scale carries it into the product.
    return codes, jnp.where(jnp.isfinite(scale), scale, jnp.nan)


def _input_gradient(dy: Array, w: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """Sums `[B, *sizes, Cin]` of codes: `dy` convolved with the flipped kernel."""
    kernel = w.shape[:-2]
    gradient_window = conv_forms.input_gradient_window(window, sizes, kernel, dy.shape[1:-1])
    flipped = jnp.flip(w, range(len(kernel))).swapaxes(-2, -1)
    # A kernel larger than the map makes a slow convolution: see convolution.py.
    if all(map(int.__ge__, dy.shape[1:-1], kernel)) and _suits_float_convolution(dy, flipped):
        return _float_convolution(dy, flipped, gradient_window)
    pixels = conv_forms.patches(dy, gradient_window, kernel, sizes)
    return _dot(pixels.T, flipped.reshape(-1, w.shape[-2])).reshape(-1, *sizes, w.shape[-2])


def _weight_gradient(x: Array, dy: Array, window: Window, shape: tuple[int, ...]) -> Array:
    """Sums `[*shape]` of codes: the pixels of `x` under each tap, times `dy`."""
    if x.ndim == 4 and x.shape[3] >= _LEAST_CHANNELS:
        # Batch and channels swap roles, so the sum over the batch is one over input channels.
        images, kernel = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
        if _suits_float_convolution(images, kernel):
            gradient_window = conv_forms.weight_gradient_window(
                window, x.shape[1:3], shape[:2], dy.shape[1:3]
            )
            return _float_convolution(images, kernel, gradient_window).transpose(1, 2, 0, 3)
    pixels = conv_forms.patches(x, window, shape[:-2], dy.shape[1:-1])
    return _dot(pixels, dy.reshape(-1, dy.shape[-1])).reshape(shape)


def _suits_float_convolution(x: Array, w: Array) -> bool:
    """Whether a few convolutions in float32 are the fastest form of one of codes."""
    channels_a_part = _FLOAT_TERMS // math.prod(w.shape[:-2])
    is_on_cpu = platform() == "cpu"
    return is_on_cpu and x.ndim == 4 and w.shape[-2] <= _MOST_PARTS * channels_a_part


def _float_convolution(x: Array, w: Array, window: Window) -> Array:
    """A convolution of codes in float32, int32 `[B, H', W', Cout]`.

    It is computed in parts of as many input channels as float32 sums exactly.
    """
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    step = _FLOAT_TERMS // math.prod(w.shape[:2])
    channels = [slice(first, first + step) for first in range(0, w.shape[2], step)]
    parts = (lax_convolution(x[..., part], w[:, :, part], window) for part in channels)
    return reduce(jnp.add, (part.astype(jnp.int32) for part in parts))


def _dot(a: Array, b: Array) -> Array:
    """Sums `[M, N]` of products of the codes `a[K, M]` and `b[K, N]`.

    The K terms are summed in parts, each exact in its dtype; the parts are added in int32, or in
    float32 where int32 could overflow.
    """
    in_float, terms = platform() in ("cpu", "gpu"), len(a)  # all codes are TF32 numbers too
    operand_dtype, sum_dtype = (jnp.float32, jnp.float32) if in_float else (jnp.int8, jnp.int32)
    parts = max(1, -(-terms // (_FLOAT_TERMS if in_float else _INT_TERMS)))
    zeros = ((0, -terms % parts), (0, 0))  # fill up the last part
    a, b = (
        jnp.pad(codes.astype(operand_dtype), zeros).reshape(parts, -1, codes.shape[1])
        for codes in (a, b)
    )
    sums = lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), preferred_element_type=sum_dtype)
    return jnp.sum(sums.astype(jnp.int32 if terms <= _INT_TERMS else jnp.float32), axis=0)
