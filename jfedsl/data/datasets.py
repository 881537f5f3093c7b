"""Data sets by name; images stay uint8 and are normalised inside the compiled round."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.data import arrays, digits, preparation
from jfedsl.data.arrays import ArrayError, Scale
from jfedsl.data.labels import Classes, classes_of
from jfedsl.data.stored import StoredImages, decode
from jfedsl.errors import UserError, one_line

_PIECE = 2048  # images read at once
_LONGEST_REASON = 150  # characters of an error's reason


class Split(NamedTuple):
    """The examples of a split.

    Attributes:
      images: inputs: uint8 `[N, H, W, C]`, or uint8, float32 or int32 `[N, ...]`; a NumPy array, or
        `StoredImages`.
      labels: targets: classes int32 `[N]`, or real numbers float32 `[N, D]`.
      owners: numbers of the clients that the examples belong to, `[N]`; None where not known.
    """

    images: Any
    labels: np.ndarray
    owners: np.ndarray | None = None

    def at(self, positions: np.ndarray) -> "Split":
        """The examples at these positions."""
        is_stored = isinstance(self.images, StoredImages)
        images = self.images.at(positions) if is_stored else self.images[positions]
        owners = None if self.owners is None else self.owners[positions]
        return Split(images, self.labels[positions], owners)


class Dataset(NamedTuple):
    """A training and a test split.

    Attributes:
      train: the training split.
      test: the test split.
      classes: number of classes; of real targets the numbers that each has, D.
      normalise: whether a run normalises inputs, with the statistics of the training split.
      scale: mean and deviation that inputs were normalised with before; None where they were not.
      notes: lines for the user on precision that inputs lost.
      class_values: the label of each class in the user's data, such as its name, `[classes]`; None
        where classes have only numbers.
      client_values: the number or name of each client in the user's data, by `Split.owners`; None
        where examples have no owners.
    """

    train: Split
    test: Split
    classes: int
    normalise: bool = True
    scale: Scale | None = None
    notes: tuple[str, ...] = ()
    class_values: np.ndarray | None = None
    client_values: np.ndarray | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class; empty where classes have only numbers."""
        return () if self.class_values is None else tuple(map(str, self.class_values))

    @property
    def of_classes(self) -> bool:
        """Whether targets are classes; else they are real numbers."""
        return self.train.labels.dtype.kind in "iu"

    @property
    def integer_inputs(self) -> bool:
        """Whether the model takes whole numbers, such as token ids."""
        return not self.normalise and self.train.images.dtype.kind in "iu"


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


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    classes: int | None = None,
    clients: Any = None,
    normalise: bool = True,
    targets: str = "classes",
) -> Dataset:
    """A data set of a user's arrays, for the table `DATASETS`.

    Examples:
      >>> x, y = np.arange(12.0).reshape(6, 2), [0, 1, 2, 0, 1, 2]
      >>> from_arrays((x[:4], y[:4]), (x[4:], y[4:])).classes
      3
      >>> names = np.array(["cat", "dog", "owl"])[y]
      >>> from_arrays((x[:4], names[:4]), (x[4:], names[4:])).class_names
      ('cat', 'dog', 'owl')

    Args:
      train: training inputs `[N, ..., C]`, kept as uint8 if they are uint8, else as float32; and
        targets.
      test: test inputs and targets of the same form.
      classes: number of classes, where labels are their numbers; default as many as the labels
        have.
      clients: client of each training example, `[N]` whole numbers or names, for
        `--partition=natural`.
      normalise: False leaves inputs as they are: the model gets whole numbers, such as token ids,
        as int32.
      targets: "classes", labels `[N]` that are texts, whole numbers or bools; their names stay in
        pictures, notes and exports unless they are 0, 1, 2, ... Or "numbers", real numbers `[N]`
        or `[N, D]`, for regression.

    Raises:
      ArrayError: names the array and what is wrong with it.
    """
    inputs = arrays.convert_inputs(train[0], test[0], normalise)
    examples, named = (len(inputs.train), len(inputs.test)), Classes(None, train[1], test[1])
    if targets == "classes" and classes is None:
        named = classes_of(train[1], test[1])
    train_targets, test_targets, width = arrays.targets(
        targets, named.train, named.test, examples, classes
    )
    owners = None if clients is None else arrays.owners(clients, len(train_targets))
    client_values = None if clients is None else np.unique(np.asarray(clients))
    return Dataset(
        Split(inputs.train, train_targets, owners),
        Split(inputs.test, test_targets),
        width,
        normalise=normalise and inputs.scale is None,
        scale=inputs.scale,
        notes=inputs.notes,
        class_values=named.values,
        client_values=client_values,
    )


def subset(split: Split, examples: int) -> Split:
    """A fixed random choice of examples of a split, whatever the seed of the run.

    A larger choice contains every smaller one.
    """
    positions = np.random.default_rng(0).permutation(len(split.labels))[:examples]
    return split.at(np.sort(positions))


def _digits(data_dir: str) -> Dataset:
    """The 1797 8x8 digits bundled with scikit-learn; a fixed fifth of each class is for testing."""
    del data_dir  # nothing to prepare
    images, labels = digits.read()
    train, test = digits.split(labels)
    return Dataset(
        Split(images[train], labels[train]), Split(images[test], labels[test]), classes=10
    )


def _prepared(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """A set that `preparation.prepare` made; `lazily` leaves its training images on disk."""
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
    except Exception as error:  # array_record, protobuf, Pillow and TFDS raise types of their own
        reason = one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        raise UserError(
            f"{folder}: damaged ({reason}); delete this folder, then {remedy}"
        ) from error


def _split(source: Any, lazily: bool) -> Split:
    """All examples of a split, their images decoded now or, if `lazily`, when they are indexed."""
    images, labels = [], []
    for first in range(0, len(source), _PIECE):
        examples = source.__getitems__(range(first, min(first + _PIECE, len(source))))
        labels += [example["label"] for example in examples]
        if not lazily:
            images.append(decode([example["image"] for example in examples]))
    all_labels = np.array(labels, np.int32)
    if lazily:
        return Split(StoredImages(source, np.arange(len(source))), all_labels)
    shape = source.dataset_info.features["image"].shape
    return Split(np.concatenate(images).reshape(-1, *shape), all_labels)


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    **{name: partial(_prepared, name) for name in preparation.NAMES},
}


def load(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """Loads a set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder of prepared sets; bundled sets ignore it.
      lazily: whether training images of prepared sets stay on disk until they are indexed.

    Raises:
      UserError: the set has not been prepared, or is damaged, and the text names the command to
        run; or a user's loader gives arrays that cannot be used, or reads files that it cannot.
    """
    if lazily and name in preparation.NAMES:
        return _prepared(name, data_dir, lazily)
    try:
        return DATASETS[name](data_dir)
    except (ArrayError, OSError) as error:  # OSError: a user's loader may read files
        raise UserError(f"--dataset={name}: {error}") from error
