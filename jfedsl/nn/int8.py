"""Gradients from whole numbers of 8 bits, as a client with integer arithmetic computes them.

The gradients of a dense layer or a convolution by its input `x` and by its kernel `w` are products
of its output's gradient `dy` with the other. Here all three are rounded to int8, `dy` at random,
which leaves gradients unbiased for the rounded `x` and `w`, and products are summed as int32.

On CPU the codes are multiplied as float32, in parts too short for it to round: the same sums to the
bit, in less time than XLA takes for int8.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from jfedsl.keys import fold
from jfedsl.nn import convolution
from jfedsl.nn.conv_forms import Window, canonical, dilate

_TOP = 127  # codes are -127, ..., 127
# The most products of two codes whose every partial sum is exact, in float32 and in int32.
_FLOAT_TERMS, _INT_TERMS = 2**24 // _TOP**2, (2**31 - 1) // _TOP**2
# On CPU, a convolution in more parts than this, or of fewer rows, is slower than one product.
_MOST_PARTS, _LEAST_ROWS = 16, 16
_DENSE = Window((), (), (), ())
_FIELDS = {nn.Dense: "dot_general", nn.Conv: "conv_general_dilated"}


@contextlib.contextmanager
def int8_backward(key: Array) -> Iterator[None]:
    """Makes every `nn.Dense` and `nn.Conv` applied inside compute its backward products in int8.

    Outputs keep their bits, gradients of biases stay float. Each tensor has one scale, its largest
    magnitude over 127. `dy` is rounded stochastically, once for both products; `x` and `w` to the
    nearest, and only their codes are kept for the backward pass. Sums of more than 133144 products
    are made of exact parts in float32. NaN or infinity in an operand makes the whole product NaN.
    Only the first derivative, in reverse mode, means anything.

    Left to the float backward pass: grouped convolutions, dilated inputs, operands of two types or
    of none that is real, modules with a `dot_general_cls` or `conv_general_dilated_cls`.

    Args:
      key: scalar PRNG key, for one pass. The n-th call of such a module, as traced, draws from
        fold(key, n). Inside Flax's own `nn.scan` or `nn.vmap` a call is traced once, and all its
        iterations draw the same.
    """
    calls = itertools.count()

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        field = next((name for kind, name in _FIELDS.items() if isinstance(module, kind)), None)
        if context.method_name != "__call__" or not field or getattr(module, f"{field}_cls"):
            return run(*args, **kwargs)
        own, wrap = getattr(module, field), _dense if isinstance(module, nn.Dense) else _conv
        replaced = partial(wrap, own or getattr(lax, field), fold(key, next(calls)))
        # Bound modules are frozen copies of what the user holds, but may be called again.
        object.__setattr__(module, field, replaced)
        try:
            return run(*args, **kwargs)
        finally:
            object.__setattr__(module, field, own)

    with nn.intercept_methods(intercept):
        yield


def _dense(operation: Any, key: Array, x: Array, w: Array, *args: Any, **options: Any) -> Array:
    """A `dot_general` of `x[..., D]` and `w[D, F]`, called as `nn.Dense` does."""
    return _int8(lambda x, w: operation(x, w, *args, **options), _DENSE, x, w, key)


def _conv(
    operation: Any, key: Array, x: Array, w: Array, strides: Any, padding: Any, **options: Any
) -> Array:
    """A convolution of `x[B, ..., Cin]` and `w[..., Cin, Cout]`, called as `nn.Conv` does."""
    inner, dilation = tuple(options["lhs_dilation"]), tuple(options["rhs_dilation"])
    if options["feature_group_count"] != 1 or set(inner) != {1}:
        return operation(x, w, strides, padding, **options)
    pads = padding
    if isinstance(padding, str):
        spans = [dilate(k, d) for k, d in zip(w.shape[:-2], dilation, strict=True)]
        pads = lax.padtype_to_pads(x.shape[1:-1], spans, strides, padding)
    window = Window(tuple(strides), tuple((low, high) for low, high in pads), inner, dilation)
    return _int8(lambda x, w: operation(x, w, strides, padding, **options), window, x, w, key)


def _int8(product: Any, window: Window, x: Array, w: Array, key: Array) -> Array:
    """`product(x, w)`; of real numbers of one type with the backward pass in int8."""
    if x.dtype != w.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return product(x, w)

    def forward(x: Any, w: Any, key: Any) -> tuple[Array, Any]:
        # Nothing needs the first layer's kernel: its input has no gradient.
        kernel = _quantize(w.value) if x.perturbed else None
        return product(x.value, w.value), (_quantize(x.value), kernel, key.value)

    run = jax.custom_vjp(lambda x, w, key: product(x, w))
    run.defvjp(forward, partial(_backward, window, jax.typeof(w)), symbolic_zeros=True)
    return run(x, w, key)


def _backward(window: Window, kernel: Any, residuals: Any, dy: Array) -> tuple[Any, Array, Any]:
    """Gradients by `x`, `w` and key; `kernel` has the shape and the type of `w`."""
    (x, x_scale), w, key = residuals
    codes, scale = _quantize(dy, key)
    axes = slice(-1 - len(window.strides), None)
    pixels, rows = (a.reshape(-1, *a.shape[axes]) for a in (x, codes))
    dw, dx = _weight_gradient(pixels, rows, window, kernel.shape), None
    dw = (dw.astype(jnp.float32) * (scale * x_scale)).astype(kernel.dtype)
    if w is not None:
        dx = _input_gradient(rows, w[0], window, pixels.shape[1:-1]).reshape(x.shape)
        dx = (dx.astype(jnp.float32) * (scale * w[1])).astype(kernel.dtype)
    return dx, dw, np.zeros(key.shape, jax.dtypes.float0)


def _quantize(x: Array, key: Array | None = None) -> tuple[Array, Array]:
    """Codes and their scale: the nearest, or with a key drawn, and biased by 2^-17 at most."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), initial=0.0) / _TOP
    t = x / jnp.where(scale == 0, 1.0, scale)
    codes = jnp.round(t) if key is None else jnp.floor(t)
    if key is not None:
        # A word makes two draws: `jax.random` would spend as much on each.
        words = jax.random.bits(key, (-(-x.size // 2),), jnp.uint32)
        draws = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
        codes += ((draws.astype(jnp.float32) + 0.5) / 2**16 < t - codes).astype(jnp.float32)
    codes = jnp.clip(codes, -_TOP, _TOP).astype(jnp.int8)
    return codes, jnp.where(jnp.isfinite(scale), scale, jnp.nan)


def _input_gradient(dy: Array, w: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """Sums `[B, *sizes, Cin]` of codes: `dy` convolved with the kernel turned round."""
    kernel = w.shape[:-2]
    slide = convolution.input_gradient_window(window, sizes, kernel, dy.shape[1:-1])
    turned = jnp.flip(w, range(len(kernel))).swapaxes(-2, -1)
    # Smaller maps than kernels are slow to slide over: see convolution.py.
    if all(map(int.__ge__, dy.shape[1:-1], kernel)) and _slides(dy, turned):
        return _slide(dy, turned, slide)
    patches, taps = _patches(dy, slide, kernel, sizes), turned.reshape(-1, w.shape[-2])
    return _dot(patches.T, taps).reshape(-1, *sizes, w.shape[-2])


def _weight_gradient(x: Array, dy: Array, window: Window, shape: tuple[int, ...]) -> Array:
    """Sums `[*shape]` of codes: what each tap sees of `x`, times `dy`."""
    if x.ndim == 4 and x.shape[3] >= _LEAST_ROWS:
        images, kernel = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
        if _slides(images, kernel):
            slide = convolution.weight_gradient_window(
                window, x.shape[1:3], shape[:2], dy.shape[1:3]
            )
            return _slide(images, kernel, slide).transpose(1, 2, 0, 3)
    patches = _patches(x, window, shape[:-2], dy.shape[1:-1])
    return _dot(patches, dy.reshape(-1, dy.shape[-1])).reshape(shape)


def _slides(x: Array, w: Array) -> bool:
    """Whether a few convolutions in float32 are the fastest form of one of codes."""
    cpu, most = jax.default_backend() == "cpu", _FLOAT_TERMS // math.prod(w.shape[:-2])
    return cpu and x.ndim == 4 and w.shape[-2] <= _MOST_PARTS * most


def _slide(x: Array, w: Array, window: Window) -> Array:
    """A convolution of codes in float32, of as many input channels at once as it sums exactly."""
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    step = _FLOAT_TERMS // math.prod(w.shape[:2])
    slices = [slice(n, n + step) for n in range(0, w.shape[2], step)]
    parts = (canonical(x[..., some], w[:, :, some], window) for some in slices)
    return reduce(jnp.add, (part.astype(jnp.int32) for part in parts))


def _patches(x: Array, window: Window, kernel: Sequence[int], outputs: Sequence[int]) -> Array:
    """What the taps see of `x` for each pixel of the output: `[B * outputs, taps * C]`."""
    pads = [(*p, d - 1) for p, d in zip(window.padding, window.lhs_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    seen = []
    for tap in np.ndindex(*kernel):
        sides = zip(tap, window.rhs_dilation, window.strides, outputs, strict=True)
        cuts = [slice(i * d, i * d + dilate(n, s), s) for i, d, s, n in sides]
        seen.append(x[:, *cuts])
    return jnp.concatenate(seen, axis=-1).reshape(-1, len(seen) * x.shape[-1])


def _dot(a: Array, b: Array) -> Array:
    """Sums `[M, N]` of products of the codes `a[K, M]` and `b[K, N]`."""
    cpu, terms = jax.default_backend() == "cpu", len(a)
    operands, exact = (jnp.float32, jnp.float32) if cpu else (jnp.int8, jnp.int32)
    parts = max(1, -(-terms // (_FLOAT_TERMS if cpu else _INT_TERMS)))
    fill = ((0, -terms % parts), (0, 0))  # the last part, with zeros
    a, b = (jnp.pad(m.astype(operands), fill).reshape(parts, -1, m.shape[1]) for m in (a, b))
    sums = lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), preferred_element_type=exact)
    return jnp.sum(sums.astype(jnp.int32 if terms <= _INT_TERMS else jnp.float32), axis=0)
