"""Weights stored in few bits and used in float: groups of integers with a scale each.

Rows are divided into groups of neighbours. A group has the scale of its largest magnitude, and its
entries are rounded to the nearest multiple. Two int4 codes share a byte.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

STORAGES = ("float32", "bfloat16", "int8", "int4")
_LEVELS = {"int8": 127, "int4": 7}
_GROUP = 64  # entries of a row that share a scale, or the largest divisor of the row below that


def group_size(width: int) -> int:
    """Entries that share a scale in rows of this width.

    >>> group_size(384), group_size(30)
    (64, 30)
    """
    return max(size for size in range(1, min(_GROUP, width) + 1) if width % size == 0)


def encode(weights: np.ndarray, storage: str) -> dict[str, np.ndarray]:
    """Rows `[R, N]` as `codes` and `scales`.

    >>> {name: x.shape for name, x in encode(np.ones((3, 128), np.float32), "int4").items()}
    {'codes': (3, 64), 'scales': (3, 2)}

    Args:
      weights: float32 `[R, N]`.
      storage: int8 or int4.

    Returns:
      `codes`, int8 `[R, N]`, or uint8 `[R, ceil(N / 2)]` of int4; `scales`, float32 `[R, N / G]`
      with G the size of a group.
    """
    rows, width = weights.shape
    grouped = weights.reshape(rows, -1, group_size(width))
    scales = np.abs(grouped).max(axis=-1) / np.float32(_LEVELS[storage])
    steps = grouped / np.where(scales > 0, scales, np.float32(1))[..., None]
    codes = np.rint(steps).astype(np.int8).reshape(rows, width)
    if storage == "int4":
        even = np.pad(codes, ((0, 0), (0, width % 2))).astype(np.uint8) & 15
        codes = even[:, 0::2] | (even[:, 1::2] << 4)
    return {"codes": codes, "scales": scales.astype(np.float32)}


def decode(codes: Array, scales: Array, width: int, dtype: DTypeLike = jnp.float32) -> Array:
    """The rows `[..., N]` that codes and scales stand for.

    Args:
      codes: of some rows, `[..., N]` or `[..., ceil(N / 2)]`, see `encode`.
      scales: of the same rows, `[..., N / G]`.
      width: N.
      dtype: of the result.
    """
    if codes.dtype == jnp.uint8:
        # A shift up and back with its sign turns four bits into a number from -8 to 7.
        halves = jnp.stack([codes << 4, codes & jnp.uint8(0xF0)], axis=-1).astype(jnp.int8) >> 4
        codes = halves.reshape(*codes.shape[:-1], -1)[..., :width]
    grouped = codes.reshape(*scales.shape, width // scales.shape[-1])
    return (grouped.astype(jnp.float32) * scales[..., None]).reshape(codes.shape).astype(dtype)


def product(x: Array, stored: tuple[Array, ...], by_column: bool) -> Array:
    """`x[..., N]` times a frozen matrix `[N, R]`, which has no gradient.

    The backward pass decodes the matrix again. It keeps the stored arrays, which are there anyway,
    and no copy of the matrix in the dtype of `x`.

    Args:
      x: float.
      stored: codes and scales of the rows `[R, N]`, see `encode`; or one array, the matrix itself.
      by_column: whether one array is `[N, R]`; else it is `[R, N]`.
    """
    return _product(x, stored, by_column, x.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: Array, stored: tuple[Array, ...], by_column: bool, width: int) -> Array:
    return x @ _matrix(stored, by_column, width, x.dtype)


def _matrix(stored: tuple[Array, ...], by_column: bool, width: int, dtype: DTypeLike) -> Array:
    """The matrix `[N, R]`."""
    if len(stored) > 1:
        codes, scales = stored
        return decode(codes, scales, width, dtype).T
    matrix = stored[0].astype(dtype)
    return matrix if by_column else matrix.T


def _forward(
    x: Array, stored: tuple[Array, ...], by_column: bool, width: int
) -> tuple[Array, tuple[Array, ...]]:
    return _product(x, stored, by_column, width), stored


def _backward(
    by_column: bool, width: int, stored: tuple[Array, ...], gradient: Array
) -> tuple[Array, None]:
    return gradient @ _matrix(stored, by_column, width, gradient.dtype).T, None


_product.defvjp(_forward, _backward)
