"""Convolution and pooling that stay fast inside loops, where XLA rewrites nothing on CPU.

Measured on CPU: the weight gradient that autodiff makes of a convolution runs a hundred times too
slow inside `scan`, `map` or `while`, max-pooling by `reduce_window` has a gradient ten times too
slow, and a kernel larger than the map it slides over runs at a fiftieth of the peak.
The forms here avoid all three. `benchmarks/convolution.py` measures them.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], ...]
Layout = lax.ConvDimensionNumbers | tuple[str, str, str]


class Window(NamedTuple):
    """How a kernel slides: all static, one entry per spatial dimension."""

    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Layout | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Array:
    """Stands in for `lax.conv_general_dilated`, for `nn.Conv(conv_general_dilated=...)`.

    Two-dimensional channels-last convolutions without groups take the fast forms, which have
    reverse-mode derivatives of any order but no forward mode; anything else goes to lax unchanged.

    Args:
      lhs: input `[B, H, W, Cin]`.
      rhs: kernel `[KH, KW, Cin, Cout]`.
      window_strides: stride of each spatial dimension.
      padding: "SAME", "VALID" or (low, high) pairs.
      lhs_dilation: dilation of the input, default none.
      rhs_dilation: dilation of the kernel, default none.
      dimension_numbers: as in lax, where None is channels-first; Flax passes channels-last.
      feature_group_count: as in lax.
      precision: as in lax.
    """
    if not _is_plain(lhs, rhs, dimension_numbers) or feature_group_count != 1 or precision:
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
            dimension_numbers, feature_group_count, precision=precision,
        )  # fmt: skip
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    spans = [_dilate(k, d) for k, d in zip(rhs.shape[:2], rhs_dilation, strict=True)]
    sizes = [_dilate(n, d) for n, d in zip(lhs.shape[1:3], lhs_dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(sizes, spans, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Window(tuple(window_strides), pads, lhs_dilation, rhs_dilation)
    fits = [
        (n < span, n + sum(pad) >= span) for n, span, pad in zip(sizes, spans, pads, strict=True)
    ]
    tiny = any(smaller for smaller, _ in fits) and all(padded for _, padded in fits)
    if tiny and lhs_dilation == (1, 1) and min(map(min, pads)) >= 0:
        return _conv_by_patches(lhs, rhs, window)
    return _conv(lhs, rhs, window)


def _is_plain(lhs: Array, rhs: Array, dimension_numbers: Layout | None) -> bool:
    """Whether a convolution is two-dimensional with channels last."""
    if dimension_numbers is None or lhs.ndim != 4:
        return False
    given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _CHANNELS_LAST)


def _dilate(size: int, dilation: int) -> int:
    return (size - 1) * dilation + 1


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, window: Window) -> Array:
    return lax.conv_general_dilated(
        x, w, *window, dimension_numbers=_CHANNELS_LAST, preferred_element_type=x.dtype
    )


def _conv_forward(x: Array, w: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, w, window), (x, w)


def _conv_backward(
    window: Window, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    """Both gradients as canonical convolutions on explicitly transposed operands.

    They are again `_conv`, so the derivative of the derivative is just as fast.
    """
    x, w = residuals
    dx = _conv(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3), _input_gradient_window(window, x, w, dy))
    dw = _conv(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), _weight_gradient_window(window, x, w, dy)
    )
    return dx, dw.transpose(1, 2, 0, 3)


_conv.defvjp(_conv_forward, _conv_backward)


def _spans(window: Window, x: Array, w: Array, dy: Array) -> zip:
    """Per spatial dimension: padding, and dilated extents of input, kernel and output."""
    return zip(
        window.padding,
        map(_dilate, x.shape[1:3], window.lhs_dilation),
        map(_dilate, w.shape[:2], window.rhs_dilation),
        map(_dilate, dy.shape[1:3], window.strides),
        strict=True,
    )


def _input_gradient_window(window: Window, x: Array, w: Array, dy: Array) -> Window:
    lows = [(k - 1 - low, n, k, o) for (low, _), n, k, o in _spans(window, x, w, dy)]
    padding = tuple((low, n + k - 1 - o - low) for low, n, k, o in lows)
    return Window(window.lhs_dilation, padding, window.strides, window.rhs_dilation)


def _weight_gradient_window(window: Window, x: Array, w: Array, dy: Array) -> Window:
    padding = tuple((low, o + k - n - 1 - low) for (low, _), n, k, o in _spans(window, x, w, dy))
    return Window(window.rhs_dilation, padding, window.lhs_dilation, window.strides)


def _conv_by_patches(x: Array, w: Array, window: Window) -> Array:
    """Convolution as one matrix product over shifted slices, for maps smaller than the kernel."""
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    height, width = (
        (n - _dilate(k, d)) // s + 1
        for n, k, d, s in zip(
            x.shape[1:3], w.shape[:2], window.rhs_dilation, window.strides, strict=True
        )
    )
    (down, across), (sy, sx) = window.rhs_dilation, window.strides
    rows, columns = w.shape[:2]
    patches = [
        x[:, i * down :, j * across :][:, : (height - 1) * sy + 1 : sy, : (width - 1) * sx + 1 : sx]
        for i in range(rows)
        for j in range(columns)
    ]
    flat = jnp.concatenate(patches, axis=3).reshape(x.shape[0] * height * width, -1)
    return (flat @ w.reshape(-1, w.shape[3])).reshape(x.shape[0], height, width, w.shape[3])


def max_pool(x: Array, size: int = 2) -> Array:
    """Non-overlapping max-pooling by slices; rows and columns that fill no window are cropped.

    The gradient goes to the first of equal maxima. It follows the comparisons made, never a test
    for equality with the maximum: where XLA computes `x` twice, rounded differently, such a test
    can fail for all entries of a window, and sharing the gradient among none of them makes NaN.

    Args:
      x: `[B, H, W, C]`.
      size: window and stride.

    Returns:
      `[B, H // size, W // size, C]`.

    Raises:
      ValueError: not images.
    """
    check_images(x)
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return reduce(_greater, (x[:, :, i, :, j] for i in range(size) for j in range(size)))


def check_images(x: Array) -> None:
    """Raises ValueError unless `x` is `[B, H, W, C]`."""
    if x.ndim != 4:
        raise ValueError(f"convolution and pooling take images [H, W, C], not {list(x.shape[1:])}")


def _greater(a: Array, b: Array) -> Array:
    """The greater, the first if equal, NaN if either is."""
    return jnp.where((b > a) | (b != b), b, a)
