"""Data sets by name, held as they are (images as uint8) and normalised in the compiled step."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.data import arrays, digits, preparation
from jfedsl.data.arrays import ArrayError, Scale
from jfedsl.errors import UserError, one_line

_PIECE = 2048  # images read at once
_MOST_REASON = 150  # characters


class Stored:
    """Images uint8 `[N, H, W, C]` of a prepared split, read when rows of them are asked for."""

    def __init__(self, source: Any, positions: np.ndarray) -> None:
        """Those at positions of a TFDS data source."""
        self._source, self._positions = source, positions
        self.shape = (len(positions), *source.dataset_info.features["image"].shape)

    def at(self, positions: np.ndarray) -> "Stored":
        """Those at positions of these."""
        return Stored(self._source, self._positions[positions])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows by a number or a slice, alone or as the first of several."""
        chosen = self._positions[rows[0] if isinstance(rows, tuple) else rows]
        images = _decode(self._source.__getitems__(np.atleast_1d(chosen).tolist()))
        return images.reshape(*np.shape(chosen), *self.shape[1:])


class Split(NamedTuple):
    """Examples.

    Attributes:
      images: uint8 `[N, H, W, C]`, or uint8, float32 or int32 `[N, ...]`; NumPy, or `Stored`.
      labels: int32 `[N]`.
      owners: numbers of the clients whose examples they are, `[N]`; None where nobody said.
    """

    images: Any
    labels: np.ndarray
    owners: np.ndarray | None = None

    def at(self, positions: np.ndarray) -> "Split":
        """The examples at these positions."""
        images = self.images
        chosen = images.at(positions) if isinstance(images, Stored) else images[positions]
        owners = None if self.owners is None else self.owners[positions]
        return Split(chosen, self.labels[positions], owners)


class Dataset(NamedTuple):
    """A training and a test split.

    Attributes:
      train: the training split.
      test: the test split.
      classes: how many.
      normalise: whether a run normalises inputs, with the statistics of the training split.
      scale: what inputs have been normalised with before, if they have.
      notes: what was lost of inputs, a line each.
    """

    train: Split
    test: Split
    classes: int
    normalise: bool = True
    scale: Scale | None = None
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether a model is given whole numbers, such as token ids."""
        return not self.normalise and self.train.images.dtype.kind in "iu"


class Pixels(NamedTuple):
    """Statistics of the training images per channel, in their own units: float32 `[C]`.

    None of both leaves inputs as they are.
    """

    mean: Array | None
    std: Array | None

    def normalise(self, images: Array) -> Array:
        """Maps images `[..., C]` to float32 with zero mean and unit variance over the set."""
        if self.mean is None or self.std is None:
            return images.astype(jnp.float32)
        shape = (1,) * (images.ndim - 1) + self.mean.shape
        return (images.astype(jnp.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)


def pixel_statistics(images: np.ndarray) -> Pixels:
    """Mean and standard deviation of each channel of `images[N, ..., C]`, 1 for a constant."""
    # Over examples first and in pieces: quick, and no float64 copy of the whole set.
    axes = tuple(range(images.ndim - 2))
    mean = images.mean(0, dtype=np.float64).mean(axes).astype(np.float32)
    pieces = np.array_split(images, max(1, images.size >> 20))
    squares = sum(np.square(piece - mean).sum(0, dtype=np.float64) for piece in pieces)
    std = np.sqrt(np.sum(squares, axes) * (images.shape[-1] / images.size))
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def pixel_sums(images: Stored, process: int, processes: int) -> np.ndarray:
    """One process's part of the sums that `from_sums` needs, int64 `[2, C]`, exact.

    Args:
      images: of the training split.
      process: number of the process.
      processes: how many share the work.
    """
    total = np.zeros((2, images.shape[-1]), np.int64)
    for first in range(process * _PIECE, images.shape[0], processes * _PIECE):
        values = images[first : first + _PIECE].reshape(-1, images.shape[-1]).astype(np.int64)
        total += np.stack([values.sum(0), np.square(values).sum(0)])
    return total


def from_sums(sums: np.ndarray, images: Stored) -> Pixels:
    """`pixel_statistics` from the sum over all processes of values and of their squares."""
    mean, square = sums / (np.prod(images.shape) / images.shape[-1])
    std = np.sqrt(square - mean * mean)
    std = np.where(std > 0, std, 1.0)
    return Pixels(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    classes: int | None = None,
    clients: Any = None,
    normalise: bool = True,
) -> Dataset:
    """A data set of a user's own arrays, for the table `DATASETS`.

    Args:
      train: inputs `[N, ..., C]`, held as uint8 if they are, else as float32; and labels `[N]`,
        whole numbers from 0.
      test: likewise.
      classes: how many; default one more than the greatest label.
      clients: who owns each training example, `[N]` whole numbers or names, for
        `--partition=natural`.
      normalise: False gives the model inputs as they are, whole numbers as int32, such as token
        ids.

    Raises:
      ArrayError: names the array and what is wrong with it.
    """
    held = arrays.hold(train[0], test[0], normalise)
    train_labels = arrays.labels("train", train[1], len(held.train))
    test_labels = arrays.labels("test", test[1], len(held.test))
    if classes is None:
        classes = int(max(train_labels.max(), test_labels.max())) + 1
    for name, labels in (("train", train_labels), ("test", test_labels)):
        if labels.max() >= classes:
            raise ArrayError(f"{name} labels: 0 to {classes - 1} are allowed, not {labels.max()}")
    owners = None if clients is None else arrays.owners(clients, len(train_labels))
    return Dataset(
        Split(held.train, train_labels, owners),
        Split(held.test, test_labels),
        classes,
        normalise=normalise and held.scale is None,
        scale=held.scale,
        notes=held.notes,
    )


def subset(split: Split, examples: int) -> Split:
    """A fixed random choice of a split, whatever the seed; larger ones contain smaller ones."""
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:examples]
    return split.at(np.sort(chosen))


def _digits(data_dir: str) -> Dataset:
    """The 1797 8x8 digits bundled with scikit-learn; a fixed fifth of each class is for testing."""
    del data_dir
    images, labels = digits.read()
    train, test = digits.split(labels)
    return Dataset(
        Split(images[train], labels[train]), Split(images[test], labels[test]), classes=10
    )


def _prepared(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """A set that `preparation.prepare` made, all of it decoded, or but for training images."""
    folder = preparation.prepared_folder(name, data_dir)
    remedy = f"run: {preparation.command(name, data_dir)}"
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
        return Dataset(_split(train, lazily), _split(test, False), classes)
    except Exception as error:  # of array_record, protobuf, Pillow or TFDS, each with their own
        reason = one_line(f"{type(error).__name__}: {error}", _MOST_REASON)
        raise UserError(
            f"{folder}: damaged ({reason}); delete this folder, then {remedy}"
        ) from error


def _split(source: Any, lazily: bool) -> Split:
    """All examples of a split, their images decoded now, or when they are asked for."""
    images, labels = [], []
    for first in range(0, len(source), _PIECE):
        examples = source.__getitems__(range(first, min(first + _PIECE, len(source))))
        labels += [example["label"] for example in examples]
        if not lazily:
            images.append(_decode(examples))
    kept = np.array(labels, np.int32)
    if lazily:
        return Split(Stored(source, np.arange(len(source))), kept)
    shape = source.dataset_info.features["image"].shape
    return Split(np.concatenate(images).reshape(-1, *shape), kept)


def _decode(examples: Any) -> np.ndarray:
    """Images of examples; with Pillow at once, which takes half the time TFDS takes."""
    from PIL import Image  # here, as the default data set needs none

    return np.stack([np.asarray(Image.open(io.BytesIO(e["image"]))) for e in examples])


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    **{name: partial(_prepared, name) for name in preparation.NAMES},
}


def load(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """Loads a set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: where prepared sets lie; unused by bundled ones.
      lazily: leave training images of prepared sets where they are until they are asked for.

    Raises:
      UserError: the set has not been prepared, or is damaged, and the text holds the command to
        run; or it is made of arrays that cannot be used, or of files that cannot be read.
    """
    if lazily and name in preparation.NAMES:
        return _prepared(name, data_dir, lazily)
    try:
        return DATASETS[name](data_dir)
    except (ArrayError, OSError) as error:  # the latter of a user's own loader
        raise UserError(f"--dataset={name}: {error}") from error
