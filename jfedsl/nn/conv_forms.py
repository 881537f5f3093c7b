"""Forms of a two-dimensional convolution, channels last, each fast where the plain one is not."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """How a kernel slides over an input: static, one entry per spatial dimension.

    Attributes:
      strides: input pixels from one output to the next.
      padding: pixels of zeros added (negative: cropped) before and after the input.
      lhs_dilation: spacing of the input's pixels, 1 for none.
      rhs_dilation: spacing of the kernel's taps, 1 for none.
    """

    strides: tuple[int, ...]
    padding: Padding
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


def dilated_extent(size: int, dilation: int) -> int:
    """Extent of `size` entries that lie `dilation` apart.

    >>> dilated_extent(3, 2)
    5
    """
    return (size - 1) * dilation + 1


def accumulation_dtype(x: Array) -> np.dtype:
    """The dtype to sum entries of `x` in: float32 for bfloat16, otherwise that of `x`."""
    return np.promote_types(x.dtype, np.float32)


def lax_convolution(x: Array, w: Array, window: Window) -> Array:
    """The convolution of lax, channels last.

    Args:
      x: input `[B, H, W, Cin]`.
      w: kernel `[KH, KW, Cin, Cout]`.
      window: how the kernel slides.

    Returns:
      `[B, H', W', Cout]`, in the dtype of `x`.
    """
    return lax.conv_general_dilated(
        x, w, *window, dimension_numbers=CHANNELS_LAST, preferred_element_type=x.dtype
    )


def lax_weight_gradient(x: Array, dy: Array, window: Window, kernel: Sequence[int]) -> Array:
    """The gradient of `lax_convolution` by its kernel, as a convolution of `x` with `dy`.

    Batch and channels swap roles. The transposes are explicit, as XLA on CPU has a fast
    convolution for channels last only and does not transpose inside a loop by itself.

    Args:
      x: input `[B, H, W, Cin]`.
      dy: gradient by the output, `[B, H', W', Cout]`.
      window: how the kernel slides.
      kernel: extents of the kernel.

    Returns:
      `[KH, KW, Cin, Cout]`, in the dtype of `x`.
    """
    gradient_window = weight_gradient_window(window, x.shape[1:3], kernel, dy.shape[1:3])
    dw = lax_convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), gradient_window)
    return dw.transpose(1, 2, 0, 3)


def patches(x: Array, window: Window, kernel: Sequence[int], outputs: Sequence[int]) -> Array:
    """The pixels of the input under each tap, for each pixel of the output.

    Args:
      x: input `[B, ..., Cin]`.
      window: how the kernel slides, with one entry per spatial dimension of `x`.
      kernel: extents of the kernel.
      outputs: extents of the output.

    Returns:
      `[B * outputs, taps * Cin]`.
    """
    pads = [(*p, d - 1) for p, d in zip(window.padding, window.lhs_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    under_taps = []
    for tap in np.ndindex(*kernel):
        dimensions = zip(tap, window.rhs_dilation, window.strides, outputs, strict=True)
        pixels = [slice(i * d, i * d + dilated_extent(n, s), s) for i, d, s, n in dimensions]
        under_taps.append(x[:, *pixels])
    rows, columns = len(x) * math.prod(outputs), len(under_taps) * x.shape[-1]
    return jnp.concatenate(under_taps, axis=-1).reshape(rows, columns)


def by_pixel_pairs(
    x: Array, w: Array, window: Window, convolve: Callable[[Array, Array, Window], Array]
) -> Array:
    """Convolution that treats two neighbouring pixels of a row as one with twice the channels.

    A kernel of 3 columns becomes one of 2 pairs, which is 4 columns: a third more products. With
    few channels the wider vectors more than make up for them.

    Args:
      x: input `[B, H, W, Cin]`.
      w: kernel `[KH, KW, Cin, Cout]`.
      window: without stride or dilation along rows, and such that the output has even rows.
      convolve: computes the convolution of the paired arrays.

    Returns:
      `[B, H', W', Cout]`.
    """
    (height, columns, inputs, outputs), (low, high) = w.shape, window.padding[1]
    # The least even number of columns that holds the kernel at both of its positions in a pair.
    wide = 2 * (columns // 2 + 1)
    filled = jnp.pad(x, ((0, 0), (0, 0), (low, high + wide - columns - 1), (0, 0)))
    pairs = filled.reshape(*x.shape[:2], filled.shape[2] // 2, 2 * inputs)
    # One copy of the kernel for each output of a pair, the second one column further right.
    shifted = [
        jnp.pad(w, ((0, 0), (shift, wide - columns - shift), (0, 0), (0, 0))) for shift in (0, 1)
    ]
    kernel = jnp.stack(shifted, axis=3).reshape(height, wide // 2, 2 * inputs, 2 * outputs)
    y = convolve(pairs, kernel, window._replace(padding=(window.padding[0], (0, 0))))
    return y.reshape(*y.shape[:2], 2 * y.shape[2], outputs)


def as_matrix_product(x: Array, w: Array, window: Window) -> Array:
    """Convolution as one matrix product, for shapes of which `is_matrix_product` is true.

    The matrix has one block of the kernel for each pair of an input pixel and an output pixel: 16
    blocks on a 2x2 map under a 3x3 kernel with a padding of 1, where a sliding kernel computes 36
    products of a pixel and a tap, 20 of them with zeros.

    Args:
      x: input `[B, H, W, Cin]`.
      w: kernel `[KH, KW, Cin, Cout]`.
      window: how the kernel slides.

    Returns:
      `[B, H', W', Cout]`.
    """
    (batch, height, width, inputs), outputs = x.shape, w.shape[3]
    rows, columns = _taps_on_first_pixel(x, w, window)
    # The taps that one output sees are consecutive, so a slice of the kernel is its block.
    blocks = [w[i : i + height, j : j + width] for i in rows for j in columns]
    matrix = jnp.stack(blocks, axis=3).reshape(height * width * inputs, len(blocks) * outputs)
    pixels = x.reshape(batch, height * width * inputs)
    y = jnp.matmul(pixels, matrix, preferred_element_type=accumulation_dtype(x))
    return y.reshape(batch, len(rows), len(columns), outputs).astype(x.dtype)


def is_matrix_product(x: Array, w: Array, window: Window) -> bool:
    """Whether the kernel covers every pixel of the map at every output, without dilation."""
    if window.lhs_dilation + window.rhs_dilation != (1, 1, 1, 1):
        return False
    dimensions = zip(_taps_on_first_pixel(x, w, window), x.shape[1:3], w.shape[:2], strict=True)
    return all(
        taps and taps[-1] >= 0 and taps[0] + size <= extent for taps, size, extent in dimensions
    )


def _taps_on_first_pixel(x: Array, w: Array, window: Window) -> list[range]:
    """Per spatial dimension: for each output, in order, the tap that lies on the first pixel."""
    dimensions = zip(x.shape[1:3], w.shape[:2], window.strides, window.padding, strict=True)
    outputs = [(n + sum(pad) - extent) // stride + 1 for n, extent, stride, pad in dimensions]
    return [
        range(low, low - count * stride, -stride)
        for (low, _), count, stride in zip(window.padding, outputs, window.strides, strict=True)
    ]


def _extents(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> zip:
    """Per spatial dimension: padding, and dilated extents of input, kernel and output."""
    return zip(
        window.padding,
        map(dilated_extent, inputs, window.lhs_dilation),
        map(dilated_extent, kernel, window.rhs_dilation),
        map(dilated_extent, outputs, window.strides),
        strict=True,
    )


def input_gradient_window(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> Window:
    """The window of the convolution of `dy` with the flipped kernel that gives `dx`.

    Strides of the convolution become dilation of `dy`, and dilation of the input becomes strides.

    Args:
      window: of the convolution.
      inputs: height and width of `x`, or as many extents as spatial dimensions.
      kernel: extents of the kernel.
      outputs: extents of `dy`.
    """
    extents = _extents(window, inputs, kernel, outputs)
    lows = [(k - 1 - low, n, k, o) for (low, _), n, k, o in extents]
    padding = tuple((low, n + k - 1 - o - low) for low, n, k, o in lows)
    return Window(window.lhs_dilation, padding, window.strides, window.rhs_dilation)


def weight_gradient_window(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> Window:
    """The window of the convolution of `x` with `dy` that gives `dw`; batch and channels swap.

    Strides of the convolution become dilation of `dy`, and dilation of the kernel becomes strides.

    Args:
      window: of the convolution.
      inputs: height and width of `x`, or as many extents as spatial dimensions.
      kernel: extents of the kernel.
      outputs: extents of `dy`.
    """
    extents = _extents(window, inputs, kernel, outputs)
    padding = tuple((low, o + k - n - 1 - low) for (low, _), n, k, o in extents)
    return Window(window.rhs_dilation, padding, window.lhs_dilation, window.strides)
