"""Forms of a 3x3 convolution with stride 1, and layers to try them on; no flags of their own.

`x[B, H, W, Cin]` and `w[3, 3, Cin, Cout]` make `[B, H, W, Cout]`. Of FORMS, gradients by the input
take `dy` and `w`, those by the kernel take `x` and `dy`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.nn import conv_forms, convolution, winograd
from jfedsl.nn.conv_forms import Window

Op = Callable[[Array, Array], Array]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_SAME = ((1, 1), (1, 1))
_WINDOW = Window((1, 1), _SAME, (1, 1), (1, 1))


class Case(NamedTuple):
    """Shapes of one comparison.

    Attributes:
      name: of the layer.
      batch: examples of each client.
      size: height and width.
      inputs: channels of the input.
      channels: channels of the output; 0 for pooling.
    """

    name: str
    batch: int
    size: int
    inputs: int
    channels: int


CASES = {
    "vgg": (
        Case("early convolution", 16, 32, 64, 64),
        Case("middle convolution", 16, 8, 256, 256),
        Case("map smaller than kernel", 16, 2, 512, 512),
        Case("pooling", 16, 32, 64, 0),
    ),
    "small": (
        Case("conv1", 8, 32, 3, 16),
        Case("conv2", 8, 16, 16, 32),
        Case("conv3", 8, 8, 32, 32),
        Case("conv4", 8, 4, 32, 64),
        Case("conv5", 8, 2, 64, 64),
        Case("pool1", 8, 32, 16, 0),
    ),
}


def plain_conv(x: Array, w: Array) -> Array:
    """As lax computes it; under vmap a grouped convolution."""
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def our_conv(x: Array, w: Array) -> Array:
    """As the models of this package compute it."""
    return convolution.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def shifted(x: Array) -> list[Array]:
    """`x[B, H, W, C]` shifted by each of the nine taps of a 3x3 kernel."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def patches(x: Array, w: Array) -> Array:
    """One product of all shifted copies, side by side; under vmap a batched product."""
    return jnp.concatenate(shifted(x), axis=3) @ w.reshape(-1, w.shape[3])


def taps(x: Array, w: Array) -> Array:
    """Nine products, one for each tap of the kernel."""
    pairs = zip(shifted(x), w.reshape(9, *w.shape[2:]), strict=True)
    return sum((pixels @ tap for pixels, tap in pairs), jnp.zeros(()))


def _canonical(x: Array, w: Array) -> Array:
    return conv_forms.lax_convolution(x, w, _WINDOW)


def _product(x: Array, w: Array) -> Array:
    return conv_forms.as_matrix_product(x, w, _WINDOW)


def _pairs(x: Array, w: Array) -> Array:
    return conv_forms.by_pixel_pairs(x, w, _WINDOW, conv_forms.lax_convolution)


def _tiles(x: Array, w: Array) -> Array:
    return winograd.convolution(x, w, _SAME)


def _input_gradient(form: Op) -> Op:
    """The form as a gradient by the input: applied to `dy` and the flipped kernel."""
    return lambda dy, w: form(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3))


def _weight_canonical(x: Array, dy: Array) -> Array:
    dw = _canonical(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3))
    return dw.transpose(1, 2, 0, 3)


def _weight_patches(x: Array, dy: Array) -> Array:
    flat = jnp.concatenate(shifted(x), axis=3).reshape(-1, 9 * x.shape[3])
    return flat.T @ dy.reshape(-1, dy.shape[3])


def _weight_product(x: Array, dy: Array) -> Array:
    w = jnp.zeros((3, 3, x.shape[3], dy.shape[3]))
    return jax.vjp(lambda w: _product(x, w), w)[1](dy)[0]


def _weight_pairs(x: Array, dy: Array) -> Array:
    w = jnp.zeros((3, 3, x.shape[3], dy.shape[3]))
    _, vjp = jax.vjp(lambda w: conv_forms.by_pixel_pairs(x, w, _WINDOW, convolution._conv), w)
    return vjp(dy)[0]


def _weight_tiles(x: Array, dy: Array) -> Array:
    return winograd.weight_gradient(x, dy, _SAME)


def _weight_parts(count: int) -> Op:
    def form(x: Array, dy: Array) -> Array:
        parts = zip(jnp.split(x, count), jnp.split(dy, count), strict=True)
        return functools.reduce(jnp.add, (_weight_canonical(*part) for part in parts))

    return form


FORWARD: dict[str, Op] = {
    "canonical": _canonical,
    "patches": patches,
    "product": _product,
    "pairs": _pairs,
    "tiles": _tiles,
}
FORMS: dict[str, dict[str, Op]] = {
    "forward": FORWARD,
    "input gradient": {name: _input_gradient(form) for name, form in FORWARD.items()},
    "weight gradient": {
        "canonical": _weight_canonical,
        "patches": _weight_patches,
        "product": _weight_product,
        "pairs": _weight_pairs,
        "tiles": _weight_tiles,
        **{f"{count} parts": _weight_parts(count) for count in (2, 4, 8, 16)},
    },
}
