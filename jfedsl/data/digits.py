"""The digits that scikit-learn carries, read without importing it, which takes over a second."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

_TEST = 0.2  # fraction of the examples


def read() -> tuple[np.ndarray, np.ndarray]:
    """The digits in their order: images uint8 `[1797, 8, 8, 1]` and labels int32 `[1797]`.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
      OSError: its file of digits cannot be read.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the digits are in scikit-learn, which is not installed")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        rows = np.array([line.split(b",") for line in file], np.float64)  # written as 5.0
    return rows[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int32)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and test examples, with a fifth of each class for testing.

    These are the ones, in the same order, of scikit-learn's
    `train_test_split(..., test_size=0.2, stratify=labels, random_state=0)`.

    Args:
      labels: int `[N]`.
    """
    rng = np.random.RandomState(0)
    _, counts = np.unique(labels, return_counts=True)
    tests = int(np.ceil(_TEST * len(labels)))
    trains = _apportion(counts, len(labels) - tests, rng)
    parts = zip(trains, _apportion(counts - trains, tests, rng), strict=True)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    train, test = [], []
    for own, (n, m) in zip(members, parts, strict=True):
        own = own[rng.permutation(len(own))]
        train.append(own[:n])
        test.append(own[n : n + m])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def _apportion(counts: np.ndarray, draws: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of `draws` come from each class: in proportion, greatest remainders rounded up."""
    exact = counts / counts.sum() * draws
    whole = np.floor(exact)
    remainders = exact - whole
    left = int(draws - whole.sum())
    for remainder in np.unique(remainders)[::-1]:
        if left == 0:
            break
        (equal,) = np.where(remainders == remainder)
        chosen = rng.choice(equal, size=min(len(equal), left), replace=False)
        whole[chosen] += 1
        left -= len(chosen)
    return whole.astype(int)
