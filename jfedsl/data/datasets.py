"""Data sets by name; images are held as uint8 and normalised inside the compiled step."""

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
    """Examples: `images` uint8 `[N, H, W, C]` or float32 `[N, ...]`, `labels` int32 `[N]`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A training and a test split and the number of classes."""

    train: Split
    test: Split
    classes: int


class Pixels(NamedTuple):
    """Statistics of the training images per channel, in their own units: float32 `[C]`."""

    mean: Array
    std: Array

    def normalise(self, images: Array) -> Array:
        """Maps images `[..., C]` to float32 with zero mean and unit variance over the set."""
        shape = (1,) * (images.ndim - 1) + self.mean.shape
        return (images.astype(jnp.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)


def pixel_statistics(images: np.ndarray) -> Pixels:
    """Mean and standard deviation of each channel of `images[N, ..., C]`, 1 for a constant."""
    # Over examples first and in pieces, which on a large set takes a tenth of the time and memory.
    axes = tuple(range(images.ndim - 2))
    mean = images.mean(0, dtype=np.float64).mean(axes).astype(np.float32)
    pieces = np.array_split(images, max(1, images.size >> 20))
    squares = sum(np.square(piece - mean).sum(0, dtype=np.float64) for piece in pieces)
    std = np.sqrt(np.sum(squares, axes) * (images.shape[-1] / images.size))
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def from_arrays(
    train: tuple[Any, Any], test: tuple[Any, Any], classes: int | None = None
) -> Dataset:
    """A data set of a user's own arrays, for the table `DATASETS`.

    Args:
      train: inputs `[N, ..., C]`, uint8 as they are, other real numbers as float32; and labels
        `[N]`, whole numbers from 0.
      test: likewise.
      classes: how many; default one more than the greatest label.

    Raises:
      ValueError: names the array and what is wrong with it.
    """
    splits = {"train": train, "test": test}
    arrays = {name: Split(*map(np.asarray, split)) for name, split in splits.items()}
    if classes is None:
        classes = max(int(split.labels.max(initial=0)) for split in arrays.values()) + 1
    for name, (images, labels) in arrays.items():
        _check_arrays(name, images, labels, classes)
    shapes = {split.images.shape[1:] for split in arrays.values()}
    if len(shapes) > 1:
        raise ValueError(f"train and test inputs have different shapes: {shapes}")

    def held(split: Split) -> Split:
        kind = np.uint8 if split.images.dtype == np.uint8 else np.float32
        return Split(split.images.astype(kind), split.labels.astype(np.int32))

    return Dataset(held(arrays["train"]), held(arrays["test"]), classes)


def _check_arrays(name: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raises ValueError on anything that training would stumble over later."""
    if images.ndim < 2 or len(images) == 0 or images.dtype.kind not in "buif":
        what = f"{images.dtype}{list(images.shape)}"
        raise ValueError(f"{name} inputs: real numbers [N, ..., C] are allowed, not {what}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{name} inputs: not all are finite")
    if labels.shape != (len(images),) or labels.dtype.kind not in "ui":
        what = f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"{name} labels: whole numbers [{len(images)}] are allowed, not {what}")
    if labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{name} labels: 0 to {classes - 1} are allowed, not {found}")


def subset(split: Split, examples: int) -> Split:
    """A fixed random choice of a split, whatever the seed; larger ones contain smaller ones."""
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:examples]
    return Split(split.images[np.sort(chosen)], split.labels[np.sort(chosen)])


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
