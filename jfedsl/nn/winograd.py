"""Winograd's 3x3 convolution: 16 products for 4 outputs instead of 36.

This is F(2x2, 3x3) of arXiv 1509.09308. A 2x2 tile of outputs depends on a 4x4 tile of inputs. Tile
and kernel are each transformed to 4x4 entries and multiplied entry by entry, which is 16 matrix
products over channels for all tiles at once; the results are transformed back. The transforms only
add, subtract and halve, so that float32 makes a few more roundings than in the plain sum. A NaN or
infinity in the input reaches all four outputs of every tile that it is in.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import Array, lax

from jfedsl.nn.conv_forms import Padding

_Grid: TypeAlias = list[list[Array]]
_Transform: TypeAlias = Callable[[Sequence[Array]], list[Array]]


def convolution(x: Array, w: Array, padding: Padding) -> Array:
    """The convolution with stride 1.

    Args:
      x: input `[B, H, W, Cin]`.
      w: kernel `[3, 3, Cin, Cout]`.
      padding: (low, high) for height and width, not negative, such that both extents of the output
        are even.

    Returns:
      `[B, H', W', Cout]`.
    """
    height, width = (n + sum(pads) - 2 for n, pads in zip(x.shape[1:3], padding, strict=True))
    kernel = _both_sides(_kernel, [[w[i, j] for j in range(3)] for i in range(3)])
    entries = [
        [tile @ weight for tile, weight in zip(*row, strict=True)]
        for row in zip(_input_tiles(x, padding), kernel, strict=True)
    ]
    tiles = (x.shape[0], height // 2, width // 2, w.shape[3])
    rows = [
        jnp.stack([y.reshape(tiles) for y in row], axis=3) for row in _both_sides(_output, entries)
    ]
    return jnp.stack(rows, axis=2).reshape(x.shape[0], height, width, w.shape[3])


def weight_gradient(x: Array, dy: Array, padding: Padding) -> Array:
    """The gradient `[3, 3, Cin, Cout]` by the kernel of `convolution`.

    Args:
      x: input `[B, H, W, Cin]`.
      dy: gradient by the output, `[B, H', W', Cout]`.
      padding: as the convolution had it.
    """
    outputs = _both_sides(_output_gradient, _output_tiles(dy))
    products = [
        [_sum_over_tiles(tile, _flatten(output)) for tile, output in zip(*row, strict=True)]
        for row in zip(_input_tiles(x, padding), outputs, strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _both_sides(_kernel_gradient, products)])


def _input_tiles(x: Array, padding: Padding) -> _Grid:
    """The transformed 4x4 tiles, a grid of entries `[tiles, Cin]`; tiles overlap by two pixels."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    rows = _input([x[:, i : i + height : 2] for i in range(4)])
    return [
        [_flatten(entry) for entry in _input([row[:, :, j : j + width : 2] for j in range(4)])]
        for row in rows
    ]


def _output_tiles(dy: Array) -> _Grid:
    """The 2x2 tiles of an output, a grid of entries `[B, H / 2, W / 2, C]`."""
    return [[dy[:, i::2, j::2] for j in range(2)] for i in range(2)]


def _flatten(entry: Array) -> Array:
    """An entry of all tiles `[B, H / 2, W / 2, C]` as `[tiles, C]`."""
    return entry.reshape(-1, entry.shape[-1])


def _sum_over_tiles(x: Array, dy: Array) -> Array:
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())))


def _both_sides(transform: _Transform, entries: _Grid) -> _Grid:
    """Transforms the columns of a grid, and then its rows."""
    columns = [transform(column) for column in zip(*entries, strict=True)]
    return [transform(row) for row in zip(*columns, strict=True)]


# The matrices of the paper's section 4.1, and for gradients their transposes.


def _input(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel(g: Sequence[Array]) -> list[Array]:
    return [g[0], (g[0] + g[1] + g[2]) * 0.5, (g[0] - g[1] + g[2]) * 0.5, g[2]]


def _output(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_gradient(y: Sequence[Array]) -> list[Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _kernel_gradient(m: Sequence[Array]) -> list[Array]:
    return [m[0] + (m[1] + m[2]) * 0.5, (m[1] - m[2]) * 0.5, (m[1] + m[2]) * 0.5 + m[3]]
