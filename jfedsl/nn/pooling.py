"""Max-pooling and ReLU whose backward passes are fast in loops and need one byte an entry.

Max-pooling by `reduce_window` has a slow gradient on CPU; `benchmarks/convolution.py` measures it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.nn.reference import are_plain


def max_pool(x: Array, size: int = 2) -> Array:
    """Non-overlapping max-pooling by slices; rows and columns that fill no window are cropped.

    The gradient goes to the first of equal maxima. It follows the comparisons made, kept as the
    place of the maximum in one byte, never a test for equality with the maximum: where XLA
    computes `x` twice, rounded differently, such a test can fail for all entries of a window, and
    sharing the gradient among none of them makes NaN.

    Args:
      x: `[B, H, W, C]`.
      size: window and stride, at most 16.

    Returns:
      `[B, H // size, W // size, C]`.

    Raises:
      ValueError: not images, or a larger window.
    """
    check_images(x)
    if size > 16:
        raise ValueError(f"max-pooling takes windows of up to 16, not {size}")
    if are_plain():
        return nn.max_pool(x, (size, size), (size, size))
    rows, columns = (n // size for n in x.shape[1:3])
    return _pool(x[:, : rows * size, : columns * size], size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x: Array, size: int) -> Array:
    return _pool_forward(x, size)[0]


def _pool_forward(x: Array, size: int) -> tuple[Array, Array]:
    """The maximum of every window, NaN if any is, and the place of the first of equals, uint8.

    Pairs meet in a knock-out, as few comparisons in a row are fast.
    """
    batch, rows, columns, channels = x.shape[0], x.shape[1] // size, x.shape[2] // size, x.shape[3]
    x = x.reshape(batch, rows, size, columns, size, channels)
    entries = [
        (x[:, :, i, :, j], jnp.uint8(i * size + j)) for i in range(size) for j in range(size)
    ]
    while len(entries) > 1:
        pairs, odd = zip(entries[::2], entries[1::2], strict=False), entries[len(entries) & ~1 :]
        entries = [_greater(first, second) for first, second in pairs] + odd
    best, place = entries[0]
    return best, jnp.broadcast_to(place, best.shape)


def _greater(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of two maxima with their places the greater, the first if equal, NaN if either is."""
    (a, place_a), (b, place_b) = first, second
    second_wins = (b > a) | (b != b)
    return jnp.where(second_wins, b, a), jnp.where(second_wins, place_b, place_a)


def _pool_backward(size: int, place: Array, dy: Array) -> tuple[Array]:
    batch, rows, columns, channels = dy.shape
    spread = (batch, rows, 1, columns, 1, channels)
    window = jnp.arange(size * size, dtype=jnp.uint8).reshape(1, 1, size, 1, size, 1)
    dx = jnp.where(place.reshape(spread) == window, dy.reshape(spread), 0)
    return (dx.reshape(batch, rows * size, columns * size, channels),)


_pool.defvjp(_pool_forward, _pool_backward)


def relu(x: Array) -> Array:
    """max(x, 0), NaN for NaN. The backward pass needs one byte an entry and nothing else.

    (Through a loop over clients `jax.nn.relu` also carries a float32 array of zeros.)
    """
    return jax.nn.relu(x) if are_plain() else _relu(x)


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
