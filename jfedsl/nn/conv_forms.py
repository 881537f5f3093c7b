"""Forms of a two-dimensional convolution, channels last, each fast where the plain one is not."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """How a kernel slides: all static, one entry per spatial dimension."""

    strides: tuple[int, ...]
    padding: Padding
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


def dilate(size: int, dilation: int) -> int:
    """Extent of `size` entries that lie `dilation` apart."""
    return (size - 1) * dilation + 1


def accumulator(x: Array) -> np.dtype:
    """The type to sum in: float32 for bfloat16, otherwise that of the summands."""
    return np.promote_types(x.dtype, np.float32)


def canonical(x: Array, w: Array, window: Window) -> Array:
    """The convolution of lax: `y` of `x[B, H, W, Cin]` with `w[KH, KW, Cin, Cout]`."""
    return lax.conv_general_dilated(
        x, w, *window, dimension_numbers=CHANNELS_LAST, preferred_element_type=x.dtype
    )


def by_pairs(
    x: Array, w: Array, window: Window, convolve: Callable[[Array, Array, Window], Array]
) -> Array:
    """Convolution of neighbouring pixels of a row as one, with twice the channels.

    The kernel becomes one of as many pairs as meet two neighbouring outputs: of 4 columns for 3, a
    third more products, which the wider vectors more than make up for.

    Args:
      x: input.
      w: kernel.
      window: without stride or dilation along rows, and with rows of the output that pair up.
      convolve: does the convolution with twice the channels.
    """
    (height, columns, inputs, outputs), (low, high) = w.shape, window.padding[1]
    wide = 2 * (columns // 2 + 1)
    filled = jnp.pad(x, ((0, 0), (0, 0), (low, high + wide - columns - 1), (0, 0)))
    pairs = filled.reshape(*x.shape[:2], filled.shape[2] // 2, 2 * inputs)
    shifted = [
        jnp.pad(w, ((0, 0), (side, wide - columns - side), (0, 0), (0, 0))) for side in (0, 1)
    ]
    kernel = jnp.stack(shifted, axis=3).reshape(height, wide // 2, 2 * inputs, 2 * outputs)
    y = convolve(pairs, kernel, window._replace(padding=(window.padding[0], (0, 0))))
    return y.reshape(*y.shape[:2], 2 * y.shape[2], outputs)


def as_product(x: Array, w: Array, window: Window) -> Array:
    """Convolution as one matrix product, where `all_meet` says so.

    The matrix has a block of the kernel for each pair of a pixel and an output: 16 on a 2x2 map
    under a 3x3 kernel with a padding of 1, where 36 products of a pixel and a tap are defined.
    """
    (batch, height, width, inputs), outputs = x.shape, w.shape[3]
    rows, columns = _first_taps(x, w, window)
    blocks = [w[i : i + height, j : j + width] for i in rows for j in columns]
    matrix = jnp.stack(blocks, axis=3).reshape(height * width * inputs, len(blocks) * outputs)
    pixels = x.reshape(batch, height * width * inputs)
    y = jnp.matmul(pixels, matrix, preferred_element_type=accumulator(x))
    return y.reshape(batch, len(rows), len(columns), outputs).astype(x.dtype)


def all_meet(x: Array, w: Array, window: Window) -> bool:
    """Whether every pixel of the map is under the kernel for every output, without dilation."""
    if window.lhs_dilation + window.rhs_dilation != (1, 1, 1, 1):
        return False
    first = _first_taps(x, w, window)
    sides = zip(first, x.shape[1:3], w.shape[:2], strict=True)
    return all(taps and taps[-1] >= 0 and taps[0] + size <= span for taps, size, span in sides)


def _first_taps(x: Array, w: Array, window: Window) -> list[range]:
    """For each side and output, descending, the tap that the first pixel is under."""
    sides = zip(x.shape[1:3], w.shape[:2], window.strides, window.padding, strict=True)
    outputs = [(n + sum(pad) - span) // stride + 1 for n, span, stride, pad in sides]
    return [
        range(low, low - count * stride, -stride)
        for (low, _), count, stride in zip(window.padding, outputs, window.strides, strict=True)
    ]
