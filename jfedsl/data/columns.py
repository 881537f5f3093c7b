"""Examples as a file holds them, with labels of any kind, and the data set that they make."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import Dataset, from_arrays, from_texts
from jfedsl.data.labels import are_plain, numbered, shortened

_TENTH = 10  # one of so many examples is tested where a file marks none
_AS_THEY_ARE = "inputs: whole numbers are left as they are, as token ids; floats are normalised"


class Columns(NamedTuple):
    """Examples as a file holds them.

    Attributes:
      features: inputs, real numbers `[N, ..., C]`, or texts, objects `[N]`.
      label: label of each example `[N]`: text, whole numbers or bools are classes; floats `[N]` or
        `[N, D]` are targets of a regression.
      client: number or name of the client of each example, `[N]`; None where not known.
      class_names: names of the classes 0, 1, ... where the labels are their numbers; else None.
      normalise: False leaves inputs as they are.
    """

    features: np.ndarray
    label: np.ndarray
    client: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    normalise: bool = True

    def at(self, rows: np.ndarray) -> "Columns":
        """The examples at positions, or where a bool array `[N]` is true."""
        client = None if self.client is None else self.client[rows]
        return self._replace(features=self.features[rows], label=self.label[rows], client=client)


def check(columns: Columns) -> None:
    """Raises ArrayError unless there are as many labels and clients as inputs, and none is missing.

    Raises:
      ArrayError: names the array, and the first missing value.
    """
    for name in ("features", "label", "client"):
        array = getattr(columns, name)
        if array is None:
            continue
        if array.ndim == 0 or len(array) != len(columns.features):
            expected = "[N, ..., C]" if name == "features" else f"[{len(columns.features)}]"
            raise ArrayError(f"{name}: an array {expected} is allowed, not {list(array.shape)}")
        missing = _missing(array)
        if missing.any():
            row = int(np.flatnonzero(missing.reshape(len(array), -1).any(axis=1))[0])
            raise missing_error(int(missing.sum()), row, name)


def missing_error(count: int, row: int, column: str) -> ArrayError:
    """The error for missing values; rows count from 1, without a header."""
    values = "1 missing value" if count == 1 else f"{count} missing values, the first"
    return ArrayError(f"{values} in row {row + 1} of {column}; fill them in or leave the rows out")


def _missing(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        return np.isnan(array)
    return array == "" if array.dtype.kind == "U" else np.zeros(1, bool)


def by_marks(columns: Columns, split: np.ndarray | None) -> tuple[Columns, Columns | None]:
    """Training and test examples by the marks `split[N]`, "train" or "test"; no test without marks.

    Raises:
      ArrayError: a mark is another one, or all are the same.
    """
    if split is None:
        return columns, None
    if split.shape != (len(columns.features),) or split.dtype.kind != "U":
        what = f"{split.dtype} {list(split.shape)}"
        raise ArrayError(
            f"split: texts train or test [{len(columns.features)}] are allowed, not {what}"
        )
    is_test = split == "test"
    (others,) = np.nonzero(~is_test & (split != "train"))
    if others.size:
        given = f"{str(split[others[0]])!r} in row {others[0] + 1}"
        raise ArrayError(f"split: train or test is allowed, not {given}")
    if is_test.all() or not is_test.any():
        raise ArrayError(f"split: train and test are needed, and all rows are {split[0]}")
    return columns.at(~is_test), columns.at(is_test)


def dataset_of(train: Columns, test: Columns | None) -> Dataset:
    """The data set of training and test examples; without the latter, of a fixed tenth for testing.

    Args:
      train: training examples; all examples where `test` is None.
      test: test examples.

    Raises:
      ArrayError: says what is wrong with the examples.
    """
    check(train)
    if test is None:
        is_test = fixed_tenth(train.label, train.client)
        train, test = train.at(~is_test), train.at(is_test)
    else:
        check(test)
        _check_clients(train, test)
    if train.label.dtype.kind == "f":
        return _made(train, train.label, test, test.label, targets="numbers")
    if train.class_names is not None:
        values, numbers = np.array(train.class_names), [train.label, test.label]
    else:
        values, *numbers = numbered(train.label, test.label)
    dataset = _made(train, numbers[0], test, numbers[1], classes=len(values))
    if dataset.integer_inputs:
        dataset = dataset._replace(notes=(*dataset.notes, _AS_THEY_ARE))
    return dataset if are_plain(values) else dataset._replace(class_values=values)


def _made(
    train: Columns, labels: np.ndarray, test: Columns, test_labels: np.ndarray, **options: Any
) -> Dataset:
    """The data set of both splits' inputs, and of their labels as numbers."""
    splits, clients = ((train.features, labels), (test.features, test_labels)), train.client
    if train.features.dtype == object:
        return from_texts(*splits, clients=clients, **options)
    return from_arrays(*splits, clients=clients, normalise=train.normalise, **options)


def fixed_tenth(label: np.ndarray, client: np.ndarray | None) -> np.ndarray:
    """Which examples are for testing, bool `[N]`: of each client a tenth, rounded.

    The choice follows from the number and order of rows alone, and is the same for every seed. The
    last training example of a class is not tested.

    Args:
      label: of each example, `[N, ...]`.
      client: of each example, `[N]`; None takes all examples as those of one client.

    Raises:
      ArrayError: no client has enough examples.
    """
    count = len(label)
    owners = np.zeros(count, int)
    if client is not None:
        owners = np.unique(client, return_inverse=True)[1]
    sizes = np.bincount(owners)
    order = np.random.default_rng(0).permutation(count)
    order = order[np.argsort(owners[order], kind="stable")]  # by client, each in random order
    rank = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_test = np.empty(count, bool)
    is_test[order] = rank < ((sizes + _TENTH // 2) // _TENTH)[owners[order]]
    if label.ndim == 1 and label.dtype.kind != "f":
        is_test &= np.isin(label, label[~is_test])
    if not is_test.any():
        least = _TENTH // 2
        raise ArrayError(
            f"no client has the {least} examples of which one can be tested; mark test examples by "
            "split (train or test)"
        )
    return is_test


def _check_clients(train: Columns, test: Columns) -> None:
    """Refuses clients that have test examples alone."""
    if train.client is None or test.client is None:
        return
    lacking = np.setdiff1d(test.client, train.client)
    if lacking.size:
        which = shortened([str(name) for name in lacking])
        raise ArrayError(f"clients without training examples: {which}")
