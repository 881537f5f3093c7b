"""Labels of any kind as numbers of classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jfedsl.data.arrays import ArrayError

_MOST_SHOWN = 5  # names in an error


class Classes(NamedTuple):
    """Labels as classes.

    Attributes:
      values: the label of each class `[classes]`; None where labels are the numbers of classes.
      train: numbers of the classes of training examples, or labels as they were given.
      test: likewise of test examples.
    """

    values: np.ndarray | None
    train: Any
    test: Any


def classes_of(train: Any, test: Any) -> Classes:
    """Numbers texts, bools, and whole numbers other than 0, 1, 2, ...; leaves all else alone.

    >>> classes_of(["no", "yes", "no"], ["yes"])
    Classes(values=array(['no', 'yes'], dtype='<U3'), train=array([0, 1, 0]), test=array([1]))
    >>> classes_of([1, 5, 9], [5]).train.tolist()
    [0, 1, 2]

    Args:
      train: labels of training examples.
      test: labels of test examples.

    Raises:
      ArrayError: as `numbered`.
    """
    arrays = _text_or_numbers(train), _text_or_numbers(test)
    if any(array is None for array in arrays):
        return Classes(None, train, test)
    given, tested = (array for array in arrays if array is not None)
    if are_plain(np.union1d(given, tested)):
        return Classes(None, train, test)
    return Classes(*numbered(given, tested))


def _text_or_numbers(labels: Any) -> np.ndarray | None:
    """Labels that can be classes as an array `[N]`; None for all else."""
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of unequal length
        return None
    if array.dtype == object and array.size and all(isinstance(x, str) for x in array.flat):
        array = array.astype(str)  # as pandas holds texts
    return array if array.ndim == 1 and array.size and array.dtype.kind in "buiU" else None


def are_plain(values: np.ndarray) -> bool:
    """Whether sorted labels are the numbers of classes, 0, 1, 2, ..., themselves."""
    return values.dtype.kind in "iu" and np.array_equal(values, np.arange(len(values)))


def numbered(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of any kind as numbers of classes, in ascending order of the labels.

    >>> values, train, test = numbered(np.array(["no", "yes", "no"]), np.array(["yes"]))
    >>> values.tolist(), train.tolist(), test.tolist()
    (['no', 'yes'], [0, 1, 0], [1])

    Args:
      train: labels of training examples `[N]`: text, whole numbers or bools.
      test: labels of test examples `[N']`.

    Returns:
      The label of each class `[classes]`; numbers of the classes of training and of test examples.

    Raises:
      ArrayError: labels have another kind or shape, or no training example has a test label.
    """
    for labels in (train, test):
        if labels.ndim != 1 or labels.dtype.kind not in "buiU":
            what = f"{labels.dtype} {list(labels.shape)}"
            raise ArrayError(f"label: text, whole numbers or bools [N] are allowed, not {what}")
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        what = f"{train.dtype} in training and {test.dtype} in test"
        raise ArrayError(f"label: texts or numbers in both splits are allowed, not {what}")
    values, numbers = np.unique(train, return_inverse=True)
    lacking, counts = np.unique(test[~np.isin(test, values)], return_counts=True)
    if lacking.size:
        names = [f"{name} ({n})" for name, n in zip(lacking, counts, strict=True)]
        which = f"label{'s' if len(names) > 1 else ''} {shortened(names)}"
        raise ArrayError(f"test examples have the {which}, which no training example has")
    return values, numbers, np.searchsorted(values, test)


def shortened(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more
