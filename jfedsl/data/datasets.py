"""Image sets by name, held as uint8 and normalised inside the compiled step."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Split(NamedTuple):
    """Examples: `images` uint8 `[N, H, W, C]`, `labels` int32 `[N]`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A training and a test split and the number of classes."""

    train: Split
    test: Split
    classes: int


class Pixels(NamedTuple):
    """Statistics of the training images per channel, in uint8 units: float32 `[C]`."""

    mean: Array
    std: Array

    def normalise(self, images: Array) -> Array:
        """Maps uint8 `[..., C]` to float32 with zero mean and unit variance over the set."""
        shape = (1,) * (images.ndim - 1) + self.mean.shape
        return (images.astype(jnp.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)


def pixel_statistics(images: np.ndarray) -> Pixels:
    """Mean and standard deviation of each channel of `images[N, H, W, C]`, 1 for a constant."""
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axes, dtype=np.float64)
    std = images.std(axes, dtype=np.float64)
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def _digits(data_dir: str) -> Dataset:
    """The 1797 8x8 digits bundled with scikit-learn; a fixed fifth of each class is for testing."""
    del data_dir
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    return Dataset(
        Split(images[train], labels[train]), Split(images[test], labels[test]), classes=10
    )


DATASETS: dict[str, Callable[[str], Dataset]] = {"digits": _digits}


def load(name: str, data_dir: str) -> Dataset:
    """Loads a set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: where prepared sets lie; unused by bundled ones.

    Raises:
      UserError: the set has not been prepared; the text holds the command to run.
    """
    return DATASETS[name](data_dir)
