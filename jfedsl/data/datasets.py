"""Image sets by name, held as uint8 and normalised inside the compiled step."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from jfedsl.data import preparation
from jfedsl.errors import UserError


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


def _prepared(name: str, data_dir: str) -> Dataset:
    """A set that `preparation.prepare` made, all of it decoded."""
    folder = preparation.prepared_folder(name, Path(data_dir))
    remedy = f"run: {preparation.command(name, Path(data_dir))}"
    if not preparation.is_prepared(folder):
        raise UserError(f"--dataset={name}: not prepared in {data_dir}; {remedy}")
    import tensorflow_datasets as tfds

    try:
        train, test = tfds.data_source(
            name,
            split=["train", "test"],
            data_dir=folder.parents[1],
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        classes = train.dataset_info.features["label"].num_classes
        return Dataset(_decode(train), _decode(test), classes)
    except Exception as error:  # of array_record, protobuf, Pillow or TFDS, each with their own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(
            f"{folder}: damaged ({reason}); delete this folder, then {remedy}"
        ) from error


def _decode(source: Any) -> Split:
    """All examples of a split; with Pillow at once, which takes half the time TFDS takes."""
    examples = source.__getitems__(range(len(source)))
    images = np.stack([np.asarray(Image.open(io.BytesIO(e["image"]))) for e in examples])
    labels = np.array([e["label"] for e in examples], np.int32)
    shape = source.dataset_info.features["image"].shape
    return Split(images.reshape(-1, *shape), labels)


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    **{name: partial(_prepared, name) for name in preparation.NAMES},
}


def load(name: str, data_dir: str) -> Dataset:
    """Loads a set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: where prepared sets lie; unused by bundled ones.

    Raises:
      UserError: the set has not been prepared, or is damaged; the text holds the command to run.
    """
    return DATASETS[name](data_dir)
