"""The digits that scikit-learn carries, read without importing it, which takes over a second."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

_TEST = 0.2  # fraction of the examples


def read() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[1797, 8, 8, 1]` and labels int32 `[1797]`, in the order of scikit-learn.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
      OSError: scikit-learn's file of digits cannot be read.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the digits are in scikit-learn, which is not installed")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        rows = np.array([line.split(b",") for line in file], np.float64)  # written as "5.0"
    return rows[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int32)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and test examples, with a fifth of each class for testing.

    Positions and their order are those of scikit-learn's
    `train_test_split(..., test_size=0.2, stratify=labels, random_state=0)`.

    Args:
      labels: int `[N]`.
    """
    rng = np.random.RandomState(0)
    _, class_sizes = np.unique(labels, return_counts=True)
    tests = int(np.ceil(_TEST * len(labels)))
    train_counts = _apportion(class_sizes, len(labels) - tests, rng)
    test_counts = _apportion(class_sizes - train_counts, tests, rng)
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(class_sizes)[:-1])
    train, test = [], []
    for members, n, m in zip(classes, train_counts, test_counts, strict=True):
        shuffled = members[rng.permutation(len(members))]
        train.append(shuffled[:n])
        test.append(shuffled[n : n + m])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def _apportion(class_sizes: np.ndarray, draws: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of `draws` come from each class: in proportion, greatest remainders rounded up.

    Ties among remainders are broken at random.
    """
    quotas = class_sizes / class_sizes.sum() * draws
    counts = np.floor(quotas)
    remainders = quotas - counts
    missing = int(draws - counts.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (tied,) = np.where(remainders == remainder)
        rounded_up = rng.choice(tied, size=min(len(tied), missing), replace=False)
        counts[rounded_up] += 1
        missing -= len(rounded_up)
    return counts.astype(int)
