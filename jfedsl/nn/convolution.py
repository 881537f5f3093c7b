"""Convolution that stays fast inside loops, where XLA rewrites nothing on CPU.

On CPU the weight gradient that autodiff makes of a convolution crawls inside `scan`, `map` or
`while`, and so do a kernel that covers the whole map and channels that fill no vector;
with many channels Winograd's tiles save products. Which form runs is decided here, by backend and
shape alone; `benchmarks/conv_forms.py` measures what the choices rest on.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.nn import winograd
from jfedsl.nn.conv_forms import (
    CHANNELS_LAST,
    Window,
    accumulator,
    all_meet,
    as_product,
    by_pairs,
    canonical,
    dilate,
)
from jfedsl.nn.reference import are_plain

Layout = lax.ConvDimensionNumbers | tuple[str, str, str]

# What suits a CPU, from benchmarks/results/conv_forms_cpu.txt: channels that fill no vector,
_NARROW_INPUTS, _NARROW_OUTPUTS = 4, 32
# channels and tiles from which Winograd's transforms cost less than they save,
_LEAST_PRODUCT, _LEAST_TILES = 128 * 256, 256
# and the parts of a batch that a weight gradient is computed in.
_PIXELS, _MOST_PARTS, _FEW_CHANNELS = 2048, 16, 16


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

    Two-dimensional channels-last convolutions of real numbers without groups take the fast forms,
    which have reverse-mode derivatives of any order but no forward mode; anything else goes to lax
    unchanged.

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
    known = _is_plain(lhs, rhs, dimension_numbers) and feature_group_count == 1
    if not known or precision or are_plain():
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
            dimension_numbers, feature_group_count, precision=precision,
        )  # fmt: skip
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    spans = [dilate(k, d) for k, d in zip(rhs.shape[:2], rhs_dilation, strict=True)]
    sizes = [dilate(n, d) for n, d in zip(lhs.shape[1:3], lhs_dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(sizes, spans, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Window(tuple(window_strides), pads, lhs_dilation, rhs_dilation)
    return _convolve(lhs, rhs, window)


def _is_plain(lhs: Array, rhs: Array, dimension_numbers: Layout | None) -> bool:
    """Whether a convolution is of real numbers, two-dimensional, with channels last."""
    real = jnp.issubdtype(lhs.dtype, jnp.floating)
    if dimension_numbers is None or lhs.ndim != 4 or not real:
        return False
    given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, CHANNELS_LAST)


def _convolve(x: Array, w: Array, window: Window) -> Array:
    """The form that suits the backend and the shapes."""
    if all_meet(x, w, window):
        return as_product(x, w, window)
    if _is_narrow(jax.default_backend(), x, w, window):
        return by_pairs(x, w, window, _conv)
    return _conv(x, w, window)


def _is_narrow(backend: str, x: Array, w: Array, window: Window) -> bool:
    """Whether channels fill no vector of a CPU, and pixels of a row can be taken in pairs."""
    _, width, inputs, outputs = w.shape
    low, high = window.padding[1]
    columns = x.shape[2] + low + high - width + 1
    few = inputs <= _NARROW_INPUTS and outputs <= _NARROW_OUTPUTS
    plain = (window.strides[1], window.lhs_dilation[1], window.rhs_dilation[1]) == (1, 1, 1)
    pairs = min(low, high) >= 0 and columns > 0 and columns % 2 == 0
    return backend == "cpu" and few and plain and pairs


def _is_tiled(backend: str, x: Array, kernel: tuple[int, ...], window: Window) -> bool:
    """Whether Winograd's tiles suit: 3x3 kernels, even outputs, many channels and tiles."""
    sizes = [n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], window.padding, strict=True)]
    plain = window._replace(padding=()) == Window((1, 1), (), (1, 1), (1, 1))
    even = all(size > 0 and size % 2 == 0 for size in sizes)
    padded = min(map(min, window.padding)) >= 0
    tiles = x.shape[0] * sizes[0] * sizes[1] // 4
    many = kernel[2] * kernel[3] >= _LEAST_PRODUCT and tiles >= _LEAST_TILES
    exact = jnp.finfo(x.dtype).bits >= 32  # bfloat16 would round the transformed tiles
    suits = kernel[:2] == (3, 3) and plain and even and padded
    return backend == "cpu" and suits and many and exact


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, window: Window) -> Array:
    if _is_tiled(jax.default_backend(), x, w.shape, window):
        return winograd.convolution(x, w, window.padding)
    return canonical(x, w, window)


def _conv_forward(x: Array, w: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, w, window), (x, w)


def _conv_backward(
    window: Window, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, w = residuals
    sizes = w.shape[:2]
    return _input_gradient(dy, w, window, x.shape[1:3]), _weight_gradient(x, dy, window, sizes)


_conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient(dy: Array, w: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """The gradient by an input of `sizes`: `dy` convolved with the kernel turned round."""
    slide = input_gradient_window(window, sizes, w.shape[:2], dy.shape[1:3])
    return _conv(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3), slide)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _weight_gradient(x: Array, dy: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """The gradient by a kernel of `sizes`; linear in `x` and in `dy`.

    The plain form is a canonical convolution on explicitly transposed operands.
    """
    backend, channels = jax.default_backend(), (x.shape[3], dy.shape[3])
    if _is_tiled(backend, x, (*sizes, *channels), window):
        return winograd.weight_gradient(x, dy, window.padding)
    slide = weight_gradient_window(window, x.shape[1:3], sizes, dy.shape[1:3])
    parts = _parts(backend, x.shape[3], dy.shape)
    bounds = [len(x) * i // parts for i in range(parts + 1)]
    terms = [
        canonical(x[a:b].transpose(3, 1, 2, 0), dy[a:b].transpose(1, 2, 0, 3), slide)
        for a, b in pairwise(bounds)
    ]
    dw = reduce(jnp.add, (term.astype(accumulator(x)) for term in terms)).astype(x.dtype)
    return dw.transpose(1, 2, 0, 3)


def _weight_gradient_forward(
    x: Array, dy: Array, window: Window, sizes: tuple[int, ...]
) -> tuple[Array, tuple[Array, Array]]:
    return _weight_gradient(x, dy, window, sizes), (x, dy)


def _weight_gradient_backward(
    window: Window, sizes: tuple[int, ...], residuals: tuple[Array, Array], dw: Array
) -> tuple[Array, Array]:
    x, dy = residuals
    return _input_gradient(dy, dw, window, x.shape[1:3]), _conv(x, dw, window)


_weight_gradient.defvjp(_weight_gradient_forward, _weight_gradient_backward)


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


def _spans(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> zip:
    """Per spatial dimension: padding, and dilated extents of input, kernel and output."""
    return zip(
        window.padding,
        map(dilate, inputs, window.lhs_dilation),
        map(dilate, kernel, window.rhs_dilation),
        map(dilate, outputs, window.strides),
        strict=True,
    )


def input_gradient_window(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> Window:
    """How a gradient of `outputs` slides over a turned kernel to make one of `inputs`."""
    spans = _spans(window, inputs, kernel, outputs)
    lows = [(k - 1 - low, n, k, o) for (low, _), n, k, o in spans]
    padding = tuple((low, n + k - 1 - o - low) for low, n, k, o in lows)
    return Window(window.lhs_dilation, padding, window.strides, window.rhs_dilation)


def weight_gradient_window(
    window: Window, inputs: Sequence[int], kernel: Sequence[int], outputs: Sequence[int]
) -> Window:
    """How `inputs`, batch and channels swapped, slide over a gradient of `outputs`."""
    spans = _spans(window, inputs, kernel, outputs)
    padding = tuple((low, o + k - n - 1 - low) for (low, _), n, k, o in spans)
    return Window(window.rhs_dilation, padding, window.lhs_dilation, window.strides)
