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


def by_taps(x: Array, w: Array, window: Window) -> Array:
    """Convolution as one matrix product for each tap, for maps smaller than the kernel.

    Only the positions where a tap meets the map are multiplied: on a 2x2 map a 3x3 kernel with a
    padding of 1 needs 16 products of a pixel with a tap instead of 36.
    """
    batch, channels = x.shape[0], w.shape[3]
    sides = list(zip(x.shape[1:3], w.shape[:2], window.strides, window.padding, strict=True))
    dilated = [dilate(k, d) for (_, k, _, _), d in zip(sides, window.rhs_dilation, strict=True)]
    height, width = (
        (n + sum(pad) - k) // s + 1 for (n, _, s, pad), k in zip(sides, dilated, strict=True)
    )
    dtype = accumulator(x)
    y = jnp.zeros((batch, height, width, channels), dtype)
    for i, j in np.ndindex(*w.shape[:2]):
        rows = _meeting(i * window.rhs_dilation[0], sides[0], height)
        columns = _meeting(j * window.rhs_dilation[1], sides[1], width)
        if rows is None or columns is None:
            continue
        seen = x[:, rows.read, columns.read]
        flat = seen.reshape(-1, x.shape[3])
        product = jnp.matmul(flat, w[i, j], preferred_element_type=dtype)
        edges = ((0, 0), rows.edges, columns.edges, (0, 0))
        y = y + jnp.pad(product.reshape(*seen.shape[:3], channels), edges)
    return y.astype(x.dtype)


class _Meeting(NamedTuple):
    """Where one tap meets a map along one side: pixels read, and outputs without it around them."""

    read: slice
    edges: tuple[int, int]


def _meeting(
    offset: int, side: tuple[int, int, int, tuple[int, int]], outputs: int
) -> _Meeting | None:
    """The outputs o with 0 <= o * stride + offset - low < size, None if there are none."""
    size, _, stride, (low, _) = side
    first = max(0, -(-(low - offset) // stride))
    last = min(outputs - 1, (size - 1 + low - offset) // stride)
    if first > last:
        return None
    start = first * stride + offset - low
    return _Meeting(
        slice(start, start + (last - first) * stride + 1, stride), (first, outputs - 1 - last)
    )
