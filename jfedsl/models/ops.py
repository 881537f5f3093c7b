"""Convolution that stays fast inside loops, where XLA rewrites nothing on CPU.

On CPU the weight gradient that autodiff makes of a convolution crawls inside `scan`, `map` or
`while`, and so does a kernel larger than the map it slides over. The forms here avoid both;
`benchmarks/convolution.py` and `benchmarks/conv_forms.py` measure by how much.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
# Of an input and an output that are narrow; benchmarks/results/conv_forms_cpu.txt.
_FEW_INPUTS, _FEW_OUTPUTS = 8, 16
# Of a weight gradient on CPU; benchmarks/results/conv_forms_cpu.txt.
_PIXELS, _MOST_PARTS, _FEW_CHANNELS = 2048, 16, 16
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
        return _conv_by_taps(lhs, rhs, window)
    if _is_narrow(jax.default_backend(), lhs, rhs, window):
        return _conv_by_pairs(lhs, rhs, window)
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
    slide = _weight_gradient_window(window, x, w, dy)
    parts = _parts(jax.default_backend(), w.shape[2], dy.shape)
    bounds = [len(x) * i // parts for i in range(parts + 1)]
    terms = [
        _conv(x[a:b].transpose(3, 1, 2, 0), dy[a:b].transpose(1, 2, 0, 3), slide)
        for a, b in pairwise(bounds)
    ]
    dw = reduce(jnp.add, (term.astype(_accumulator(w)) for term in terms)).astype(w.dtype)
    return dx, dw.transpose(1, 2, 0, 3)


def _accumulator(x: Array) -> np.dtype:
    """The type to sum in: float32 for bfloat16, otherwise that of the summands."""
    return np.promote_types(x.dtype, np.float32)


def _parts(backend: str, channels: int, outputs: tuple[int, ...]) -> int:
    """In how many parts of the batch to compute a weight gradient.

    It is a product that contracts over the pixels of the whole batch. On CPU some thousand
    of them keep the operands in cache, and parts are computed next to each other; with very few
    input channels parts only cost.

    Args:
      backend: as `jax.default_backend()` names it.
      channels: of the input.
      outputs: shape of the output `[B, H, W, C]`.
    """
    batch, height, width, _ = outputs
    if backend != "cpu" or channels < _FEW_CHANNELS:
        return 1
    return max(1, min(batch, _MOST_PARTS, round(batch * height * width / _PIXELS)))


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


def _is_narrow(backend: str, x: Array, w: Array, window: Window) -> bool:
    """Whether channels fill no vector of a CPU, and pixels of a row can be taken in pairs."""
    _, width, inputs, outputs = w.shape
    low, high = window.padding[1]
    plain = (window.strides[1], window.lhs_dilation[1], window.rhs_dilation[1]) == (1, 1, 1)
    columns = x.shape[2] + low + high - width + 1
    few = inputs <= _FEW_INPUTS and outputs <= _FEW_OUTPUTS
    return backend == "cpu" and few and plain and min(low, high) >= 0 and columns % 2 == 0


def _conv_by_pairs(x: Array, w: Array, window: Window) -> Array:
    """Convolution of neighbouring pixels of a row as one, with twice the channels.

    The kernel becomes one of as many pairs as meet two neighbouring outputs: of 4 columns for 3, a
    third more products, which the wider vectors more than make up for.
    """
    (height, columns, inputs, outputs), (low, high) = w.shape, window.padding[1]
    wide = 2 * (columns // 2 + 1)
    filled = jnp.pad(x, ((0, 0), (0, 0), (low, high + wide - columns - 1), (0, 0)))
    pairs = filled.reshape(*x.shape[:2], -1, 2 * inputs)
    shifted = [
        jnp.pad(w, ((0, 0), (side, wide - columns - side), (0, 0), (0, 0))) for side in (0, 1)
    ]
    kernel = jnp.stack(shifted, axis=3).reshape(height, wide // 2, 2 * inputs, 2 * outputs)
    y = _conv(pairs, kernel, window._replace(padding=(window.padding[0], (0, 0))))
    return y.reshape(*y.shape[:2], -1, outputs)


def _conv_by_taps(x: Array, w: Array, window: Window) -> Array:
    """Convolution as one matrix product for each tap, for maps smaller than the kernel.

    Only the positions where a tap meets the map are multiplied: on a 2x2 map a 3x3 kernel with a
    padding of 1 needs 16 products of a pixel with a tap instead of 36.
    """
    batch, channels = x.shape[0], w.shape[3]
    sides = list(zip(x.shape[1:3], w.shape[:2], window.strides, window.padding, strict=True))
    dilated = [_dilate(k, d) for (_, k, _, _), d in zip(sides, window.rhs_dilation, strict=True)]
    height, width = (
        (n + sum(pad) - k) // s + 1 for (n, _, s, pad), k in zip(sides, dilated, strict=True)
    )
    dtype = _accumulator(x)
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
