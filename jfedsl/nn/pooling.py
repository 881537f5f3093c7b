"""Max-pooling and ReLU whose backward passes are fast in loops and keep one byte an entry.

The gradient of max-pooling by `reduce_window` is slow on CPU; `benchmarks/convolution.py` measures
it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.nn.lax_only import is_lax_only


def max_pool(x: Array, size: int = 2) -> Array:
    """Non-overlapping max-pooling; rows and columns that fill no window are cropped.

    The gradient goes to the first of equal maxima. The forward pass keeps the position of each
    maximum in one byte. Comparing `x` with the maximum in the backward pass instead would not be
    safe: XLA may compute `x` twice and round it differently, so that no entry of a window equals
    its maximum, and dividing the gradient among none of them makes NaN.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]

    Args:
      x: `[B, H, W, C]`.
      size: window and stride, at most 16 so that a position fits into a byte.

    Returns:
      `[B, H // size, W // size, C]`.

    Raises:
      ValueError: `x` is not a batch of images, or `size` is above 16.
    """
    check_images(x)
    if size > 16:
        raise ValueError(f"max-pooling takes windows of up to 16, not {size}")
    if is_lax_only():
        return nn.max_pool(x, (size, size), (size, size))
    rows, columns = (n // size for n in x.shape[1:3])
    return _pool(x[:, : rows * size, : columns * size], size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x: Array, size: int) -> Array:
    return _pool_forward(x, size)[0]


def _pool_forward(x: Array, size: int) -> tuple[Array, Array]:
    """The maximum of every window, NaN if any entry is, and its position in the window, uint8."""
    batch, rows, columns, channels = x.shape[0], x.shape[1] // size, x.shape[2] // size, x.shape[3]
    x = x.reshape(batch, rows, size, columns, size, channels)
    entries = [
        (x[:, :, i, :, j], jnp.uint8(i * size + j)) for i in range(size) for j in range(size)
    ]
    # A tournament of pairs, not a running maximum: it has a shorter chain of comparisons.
    while len(entries) > 1:
        pairs, odd = zip(entries[::2], entries[1::2], strict=False), entries[len(entries) & ~1 :]
        entries = [_greater(first, second) for first, second in pairs] + odd
    maximum, position = entries[0]
    return maximum, jnp.broadcast_to(position, maximum.shape)


def _greater(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """The greater of two values with their positions: the first if equal, NaN if either is."""
    (a, position_a), (b, position_b) = first, second
    second_wins = (b > a) | (b != b)  # b != b is true of NaN only
    return jnp.where(second_wins, b, a), jnp.where(second_wins, position_b, position_a)


def _pool_backward(size: int, position: Array, dy: Array) -> tuple[Array]:
    batch, rows, columns, channels = dy.shape
    over_windows = (batch, rows, 1, columns, 1, channels)
    positions = jnp.arange(size * size, dtype=jnp.uint8).reshape(1, 1, size, 1, size, 1)
    dx = jnp.where(position.reshape(over_windows) == positions, dy.reshape(over_windows), 0)
    return (dx.reshape(batch, rows * size, columns * size, channels),)


_pool.defvjp(_pool_forward, _pool_backward)


def relu(x: Array) -> Array:
    """max(x, 0), NaN for NaN. The backward pass keeps one byte an entry and nothing else.

    The gradient at 0 is 0. In a loop over clients `jax.nn.relu` would also keep a float32 array of
    zeros.
    """
    return jax.nn.relu(x) if is_lax_only() else _relu(x)


@jax.custom_vjp
def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    return _relu(x), x > 0


def _relu_backward(positive: Array, dy: Array) -> tuple[Array]:
    return (jnp.where(positive, dy, 0),)


_relu.defvjp(_relu_forward, _relu_backward)


def check_images(x: Array) -> None:
    """Raises ValueError unless `x` is `[B, H, W, C]`."""
    if x.ndim != 4:
        raise ValueError(f"convolution and pooling take images [H, W, C], not {list(x.shape[1:])}")
