"""Checks of a user's texts."""

from typing import Any

import numpy as np

from jfedsl.data.arrays import ArrayError

_SHOWN = 30  # characters of a value in an error


def as_texts(name: str, values: Any) -> np.ndarray:
    """Texts as an array of objects `[N]`, each a str.

    >>> as_texts("train", ["a text", "another"]).tolist()
    ['a text', 'another']

    Args:
      name: of the split, for errors.
      values: texts `[N]`, such as a list, or a NumPy or pandas column.

    Raises:
      ArrayError: there are no texts, or a value is none.
    """
    try:
        array = np.asarray(values, dtype=object)
    except ValueError as error:  # rows of unequal length
        raise ArrayError(f"{name} inputs: texts [N] are allowed: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise ArrayError(f"{name} inputs: texts [N] are allowed, not an array {list(array.shape)}")
    for row, value in enumerate(array, 1):
        if not isinstance(value, str):
            given = f"{type(value).__name__} {str(value)[:_SHOWN]}"
            raise ArrayError(f"{name} inputs: texts are allowed, not {given} in row {row}")
    return array
