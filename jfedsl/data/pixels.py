"""Statistics of training images, with which inputs are normalised inside the compiled round."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.data.stored import StoredImages

_PIECE = 2048  # images read at once


class Pixels(NamedTuple):
    """Statistics of the training images, with which inputs are normalised.

    Attributes:
      mean: of each channel, float32 `[C]`; None leaves inputs as they are.
      std: standard deviation of each channel, float32 `[C]`; None leaves inputs as they are.
    """

    mean: Array | None
    std: Array | None

    def prepare(self, images: Array) -> Array:
        """What the first layer is given of `images[..., C]`, in training and everywhere else.

        float32 with mean 0 and variance 1 over the training split; or, where inputs are left as
        they are, whole numbers such as token ids as int32, and others as float32.
        """
        if self.mean is None or self.std is None:
            whole = jnp.issubdtype(images.dtype, jnp.integer)
            return images.astype(jnp.int32 if whole else jnp.float32)
        shape = (1,) * (images.ndim - 1) + self.mean.shape
        return (images.astype(jnp.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)


def pixel_statistics(images: np.ndarray) -> Pixels:
    """Mean and standard deviation of each channel of `images[N, ..., C]`; 1 if it is constant."""
    # Over examples first and in pieces: fast, and without a float64 copy of the whole set.
    axes = tuple(range(images.ndim - 2))
    mean = images.mean(0, dtype=np.float64).mean(axes).astype(np.float32)
    pieces = np.array_split(images, max(1, images.size >> 20))
    squares = sum(np.square(piece - mean).sum(0, dtype=np.float64) for piece in pieces)
    std = np.sqrt(np.sum(squares, axes) * (images.shape[-1] / images.size))
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def pixel_sums(images: StoredImages, process: int, processes: int) -> np.ndarray:
    """One process's part of the exact sums that `from_sums` takes, int64 `[2, C]`.

    Args:
      images: all images of the training split, `[N, H, W, C]`.
      process: number of this process.
      processes: number of processes that share the work.

    Returns:
      Sums of values and of their squares over every `processes`-th piece of the images.
    """
    total = np.zeros((2, images.shape[-1]), np.int64)
    for first in range(process * _PIECE, images.shape[0], processes * _PIECE):
        values = images[first : first + _PIECE].reshape(-1, images.shape[-1]).astype(np.int64)
        total += np.stack([values.sum(0), np.square(values).sum(0)])
    return total


def from_sums(sums: np.ndarray, images: StoredImages) -> Pixels:
    """Pixel statistics from `sums[2, C]`, the sum over all processes of `pixel_sums`."""
    mean, square = sums / (np.prod(images.shape) / images.shape[-1])
    std = np.sqrt(square - mean * mean)
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
