"""Convolution that stays fast inside loops, where XLA rewrites nothing on CPU.

On CPU, inside `scan`, `map` or `while`, three kinds of convolution are slow: the weight gradient
that autodiff derives, a kernel that covers the whole map, and channels too few to fill a vector.
With many channels Winograd's tiles save products. On GPU and TPU, convolutions of clients are
products over the client axis, see `client_convolution`. Platform and shape alone decide which form
runs; `benchmarks/conv_forms.py` measures what the choices rest on.
"""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.nn import client_convolution, winograd
from jfedsl.nn.conv_forms import (
    CHANNELS_LAST,
    Window,
    accumulation_dtype,
    as_matrix_product,
    by_pixel_pairs,
    dilated_extent,
    input_gradient_window,
    is_matrix_product,
    lax_convolution,
    lax_weight_gradient,
)
from jfedsl.nn.lax_only import is_lax_only
from jfedsl.nn.platform import platform

Layout = lax.ConvDimensionNumbers | tuple[str, str, str]

# Thresholds for CPUs, read off benchmarks/results/conv_forms_cpu.txt.
# Pixels are paired up to this many channels in and out.
_MOST_PAIRED_INPUTS, _MOST_PAIRED_OUTPUTS = 4, 32
# Winograd's transforms pay from this product of channels in and out, and this many tiles, on.
_LEAST_CHANNEL_PRODUCT, _LEAST_TILES = 128 * 256, 256
# A weight gradient is computed in parts of about so many output pixels, in so many parts at most,
# and only from so many input channels on.
_PIXELS_A_PART, _MOST_PARTS, _LEAST_INPUTS = 2048, 16, 16


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
    """Drop-in for `lax.conv_general_dilated`, to pass to `nn.Conv(conv_general_dilated=...)`.

    Two-dimensional channels-last convolutions of real numbers without groups take the fast forms,
    which have reverse-mode derivatives of any order but no forward mode. Any other convolution goes
    to lax unchanged.

    >>> from flax import linen as nn
    >>> conv = nn.Conv(8, (3, 3), conv_general_dilated=conv_general_dilated)
    >>> y, _ = conv.init_with_output(jax.random.key(0), jnp.zeros((2, 5, 5, 3)))
    >>> y.shape
    (2, 5, 5, 8)

    Args:
      lhs: input `[B, H, W, Cin]`.
      rhs: kernel `[KH, KW, Cin, Cout]`.
      window_strides: stride of each spatial dimension.
      padding: "SAME", "VALID" or (low, high) pairs.
      lhs_dilation: dilation of the input, default none.
      rhs_dilation: dilation of the kernel, default none.
      dimension_numbers: layouts of input, kernel and output. None is channels first, as in lax;
        Flax passes channels last.
      feature_group_count: groups of channels that are convolved separately.
      precision: of the products; lax computes any but the default.

    Returns:
      `[B, H', W', Cout]`.
    """
    has_fast_form = _is_real_channels_last(lhs, rhs, dimension_numbers) and feature_group_count == 1
    if not has_fast_form or precision or is_lax_only():
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
            dimension_numbers, feature_group_count, precision=precision,
        )  # fmt: skip
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    if isinstance(padding, str):
        extents = map(dilated_extent, lhs.shape[1:3], lhs_dilation)
        kernel_extents = map(dilated_extent, rhs.shape[:2], rhs_dilation)
        padding = lax.padtype_to_pads([*extents], [*kernel_extents], window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Window(tuple(window_strides), pads, lhs_dilation, rhs_dilation)
    return _convolve(lhs, rhs, window)


def _is_real_channels_last(lhs: Array, rhs: Array, dimension_numbers: Layout | None) -> bool:
    """Whether a convolution is of real numbers, two-dimensional, with channels last."""
    is_real = jnp.issubdtype(lhs.dtype, jnp.floating)
    if dimension_numbers is None or lhs.ndim != 4 or not is_real:
        return False
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return layout == lax.conv_dimension_numbers(lhs.shape, rhs.shape, CHANNELS_LAST)


def _convolve(x: Array, w: Array, window: Window) -> Array:
    """`[B, H', W', Cout]` by the form that suits the platform and the shapes."""
    if is_matrix_product(x, w, window):
        return as_matrix_product(x, w, window)
    if _pairs_up(x, w, window):
        return by_pixel_pairs(x, w, window, _conv)
    return _conv(x, w, window)


def _pairs_up(x: Array, w: Array, window: Window) -> bool:
    """Whether channels are too few to fill a CPU's vectors and rows of the output are even."""
    _, width, inputs, outputs = w.shape
    low, high = window.padding[1]
    columns = x.shape[2] + low + high - width + 1
    has_few_channels = inputs <= _MOST_PAIRED_INPUTS and outputs <= _MOST_PAIRED_OUTPUTS
    slides_by_pixels = (
        window.strides[1], window.lhs_dilation[1], window.rhs_dilation[1]
    ) == (1, 1, 1)  # fmt: skip
    has_even_rows = min(low, high) >= 0 and columns > 0 and columns % 2 == 0
    return platform() == "cpu" and has_few_channels and slides_by_pixels and has_even_rows


def _suits_winograd(x: Array, kernel: tuple[int, ...], window: Window) -> bool:
    """Whether Winograd's tiles pay: 3x3 kernels, even outputs, many channels and tiles."""
    sizes = [n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], window.padding, strict=True)]
    slides_by_pixels = window._replace(padding=()) == Window((1, 1), (), (1, 1), (1, 1))
    is_even = all(size > 0 and size % 2 == 0 for size in sizes)
    is_cropped = min(map(min, window.padding)) < 0
    tiles = x.shape[0] * sizes[0] * sizes[1] // 4
    is_large = kernel[2] * kernel[3] >= _LEAST_CHANNEL_PRODUCT and tiles >= _LEAST_TILES
    is_exact = jnp.finfo(x.dtype).bits >= 32  # bfloat16 would round the transformed tiles
    can_tile = kernel[:2] == (3, 3) and slides_by_pixels and is_even and not is_cropped
    return platform() == "cpu" and can_tile and is_large and is_exact


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, window: Window) -> Array:
    """The convolution whose two gradients are written out below, not derived by autodiff."""
    if _suits_winograd(x, w.shape, window):
        return winograd.convolution(x, w, window.padding)
    form = lax_convolution if platform() == "cpu" else client_convolution.convolution
    return form(x, w, window)


def _conv_forward(x: Array, w: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, w, window), (x, w)


def _conv_backward(
    window: Window, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, w = residuals
    dx = _input_gradient(dy, w, window, x.shape[1:3])
    return dx, _weight_gradient(x, dy, window, w.shape[:2])


_conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient(dy: Array, w: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """The gradient `[B, *sizes, Cin]` by the input: `dy` convolved with the flipped kernel."""
    gradient_window = input_gradient_window(window, sizes, w.shape[:2], dy.shape[1:3])
    return _conv(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3), gradient_window)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _weight_gradient(x: Array, dy: Array, window: Window, sizes: tuple[int, ...]) -> Array:
    """The gradient `[*sizes, Cin, Cout]` by the kernel.

    It is linear in `x` and in `dy`, so that its derivatives are convolutions too: second
    derivatives take the fast forms.
    """
    channels = (x.shape[3], dy.shape[3])
    if _suits_winograd(x, (*sizes, *channels), window):
        return winograd.weight_gradient(x, dy, window.padding)
    if platform() != "cpu":
        return client_convolution.weight_gradient(x, dy, window, sizes)
    parts = _weight_gradient_parts(x.shape[3], dy.shape)
    bounds = [len(x) * i // parts for i in range(parts + 1)]
    terms = [
        lax_weight_gradient(x[first:end], dy[first:end], window, sizes)
        for first, end in pairwise(bounds)
    ]
    return reduce(jnp.add, (term.astype(accumulation_dtype(x)) for term in terms)).astype(x.dtype)


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


def _weight_gradient_parts(inputs: int, outputs: tuple[int, ...]) -> int:
    """Number of parts of the batch to compute a weight gradient in on CPU.

    A weight gradient is a product that contracts over the pixels of the whole batch. Parts of some
    thousand pixels stay in cache and run on several cores; with very few input channels they only
    cost.

    Args:
      inputs: channels of the input.
      outputs: shape of the output `[B, H, W, C]`.
    """
    batch, height, width, _ = outputs
    if inputs < _LEAST_INPUTS:
        return 1
    return max(1, min(batch, _MOST_PARTS, round(batch * height * width / _PIXELS_A_PART)))
