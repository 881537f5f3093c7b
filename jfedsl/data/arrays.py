"""Checks and conversion of a user's arrays of inputs and labels.

Inputs are read in pieces, so that only the converted copy takes memory.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_LARGEST, _MOST_CLASSES = 1e15, 1_000_000
_LARGEST_INTEGER = 2**24  # float32 holds all whole numbers up to it
_PIECE = 1 << 18  # entries read at once
_SAMPLE = 1 << 20  # entries in which values that float32 makes equal are looked for
# float32 is too coarse for a feature with a larger ratio of mean to deviation or a smaller
# deviation.
_LARGEST_RATIO, _LEAST_DEVIATION = 2.0**10, 1e-15
_MOST_LOST = 0.01  # fraction of a feature's distinct values that may become equal without a note


class ArrayError(ValueError):
    """An array that cannot be used; the text names it and says what is allowed."""


class Scale(NamedTuple):
    """Mean and deviation that inputs were normalised with before the run, float64.

    Attributes:
      mean: mean of each feature, `[C]`, in the feature's unit.
      std: standard deviation of each feature, `[C]`, 1 for a constant one.
    """

    mean: np.ndarray
    std: np.ndarray


class ConvertedInputs(NamedTuple):
    """Inputs of both splits as a run keeps them.

    Attributes:
      train: training inputs, uint8, float32 or int32 `[N, ..., C]`.
      test: test inputs, of the same dtype, `[N', ..., C]`.
      scale: mean and deviation that both were normalised with; None where they were not.
      notes: lines for the user on precision that was lost.
    """

    train: np.ndarray
    test: np.ndarray
    scale: Scale | None
    notes: tuple[str, ...]


def convert_inputs(train: Any, test: Any, normalise: bool) -> ConvertedInputs:
    """Inputs of both splits as a run keeps them.

    uint8 stays uint8. Without `normalise` other whole numbers become int32. All other inputs become
    float32; where float32 is too coarse for them, they are normalised in float64 first.

    >>> convert_inputs([[1, 2], [3, 4]], [[5, 6]], normalise=False).train.dtype
    dtype('int32')

    Args:
      train: training inputs `[N, ..., C]`.
      test: test inputs `[N', ..., C]`.
      normalise: whether the run normalises inputs.

    Raises:
      ArrayError: an array does not hold inputs, or the two differ in shape or kind.
    """
    arrays = [_inputs("train", train, normalise), _inputs("test", test, normalise)]
    dtypes = [_converted_dtype(array.dtype, normalise) for array in arrays]
    kinds = [f"{dtype} {list(x.shape[1:])}" for dtype, x in zip(dtypes, arrays, strict=True)]
    if kinds[0] != kinds[1]:
        raise ArrayError(f"test inputs must be {kinds[0]} like the training inputs, not {kinds[1]}")
    if dtypes[0] != np.float32:
        train_inputs, test_inputs = (array.astype(dtypes[0], copy=False) for array in arrays)
        return ConvertedInputs(train_inputs, test_inputs, None, ())
    scale, notes = _scale_of(arrays[0], normalise)
    train_inputs, test_inputs = (_to_float32(array, scale) for array in arrays)
    return ConvertedInputs(train_inputs, test_inputs, scale, notes)


def _converted_dtype(dtype: np.dtype, normalise: bool) -> np.dtype:
    if dtype == np.uint8:
        return dtype
    return np.dtype(np.float32 if normalise or dtype.kind == "f" else np.int32)


def _inputs(name: str, values: Any, normalise: bool) -> np.ndarray:
    """Inputs as an array, unconverted.

    Raises:
      ArrayError: they are no numbers `[N, ..., C]`, or too large or not finite.
    """
    array = _array(f"{name} inputs", values)
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "buif":
        what = f"{array.dtype} {list(array.shape)}"
        raise ArrayError(f"{name} inputs: real numbers [N, ..., C] are allowed, not {what}")
    if array.dtype == np.uint8:
        return array
    if not normalise and array.dtype.kind != "f":
        least, most = array.min(), array.max()
        if least < -_LARGEST_INTEGER or most > _LARGEST_INTEGER:
            limits = f"whole numbers from {-_LARGEST_INTEGER} to {_LARGEST_INTEGER}"
            allowed = f"{limits} are allowed with normalise=False"
            raise ArrayError(f"{name} inputs: {allowed}, not {least} to {most}")
    # Squares of larger numbers, and sums of squares, overflow float32.
    elif not all((np.abs(piece.astype(np.float64)) < _LARGEST).all() for piece in _pieces(array)):
        raise ArrayError(f"{name} inputs: finite numbers below {_LARGEST:g} are allowed")
    return array


def targets(
    kind: str, train: Any, test: Any, examples: tuple[int, int], classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Targets of both splits as they are held, and how wide outputs are.

    Args:
      kind: "classes" or "numbers".
      train: of the training split.
      test: likewise.
      examples: how many each split has.
      classes: how many there are; None for one more than the greatest label.

    Raises:
      ArrayError: they are something else.
    """
    if kind == "numbers":
        if classes is not None:
            raise ArrayError(f'classes: None is allowed with targets="numbers", not {classes}')
        rows = real_targets("train", train, examples[0]), real_targets("test", test, examples[1])
        width: int = rows[0].shape[1]
        if rows[1].shape[1] != width:
            test_width = rows[1].shape[1]
            raise ArrayError(f"test targets: {width} numbers each are allowed, not {test_width}")
        return *rows, width
    if kind != "classes":
        raise ArrayError(f'targets: "classes" or "numbers" is allowed, not {kind!r}')
    both = {"train": labels("train", train, examples[0]), "test": labels("test", test, examples[1])}
    width = int(max(y.max() for y in both.values())) + 1 if classes is None else classes
    for name, y in both.items():
        if y.max() >= width:
            raise ArrayError(f"{name} labels: 0 to {width - 1} are allowed, not {y.max()}")
    return both["train"], both["test"], width


def labels(name: str, values: Any, examples: int) -> np.ndarray:
    """Labels as int32 `[examples]`.

    Args:
      name: of the split, for errors.
      values: whole numbers from 0, `[examples]`.
      examples: number of inputs.

    Raises:
      ArrayError: the labels have another shape or dtype, or are out of range.
    """
    array = _array(f"{name} labels", values)
    if array.shape != (examples,) or array.dtype.kind not in "ui":
        what = f"{array.dtype} {list(array.shape)}{_remedy(array, examples)}"
        raise ArrayError(f"{name} labels: whole numbers [{examples}] are allowed, not {what}")
    if array.min() < 0 or array.max() >= _MOST_CLASSES:
        given = f"{array.min()} to {array.max()}"
        raise ArrayError(f"{name} labels: 0 to {_MOST_CLASSES - 1} are allowed, not {given}")
    return array.astype(np.int32)


def real_targets(name: str, values: Any, examples: int) -> np.ndarray:
    """Targets of real numbers, a number or a row each, as float32 `[examples, D]`.

    Raises:
      ArrayError: they are something else.
    """
    array = _array(f"{name} targets", values)
    shapes = f"[{examples}] or [{examples}, D]"
    if array.shape[:1] != (examples,) or array.ndim > 2 or array.dtype.kind not in "buif":
        what = f"{array.dtype} {list(array.shape)}"
        raise ArrayError(f"{name} targets: real numbers {shapes} are allowed, not {what}")
    if array.size == 0 or not (np.abs(array.astype(np.float64)) < _LARGEST).all():
        raise ArrayError(f"{name} targets: finite numbers below {_LARGEST:g} are allowed")
    return array.astype(np.float32).reshape(examples, -1)


def _remedy(array: np.ndarray, examples: int) -> str:
    """The expression that turns labels of a common other kind into whole numbers, or ""."""
    if array.shape == (examples, 1):
        return "; labels[:, 0] has one axis"
    if array.ndim == 2 and len(array) == examples:
        return "; labels.argmax(1) are the classes of one-hot rows"
    if array.dtype.kind in "fb":
        whole = "; labels.astype(int) are whole numbers"
        return f'{whole}; targets="numbers" takes real ones, for regression'
    if array.dtype.kind in "SO":
        return "; labels.astype(str) are texts, which are classes too"
    return ""


def owners(values: Any, examples: int) -> np.ndarray:
    """The client of each example, int32 `[examples]`, numbered from 0 in ascending order.

    >>> owners(["ann", "bob", "ann"], 3).tolist()
    [0, 1, 0]

    Args:
      values: a number or a name of the client of each example.
      examples: number of training examples.

    Raises:
      ArrayError: there is no number or name for each example.
    """
    array = _array("clients", values)
    try:
        if array.shape == (examples,) and array.dtype.kind in "uiSUO":
            return np.unique(array, return_inverse=True)[1].astype(np.int32)
    except TypeError:  # numbers and names together have no order
        pass
    what = f"{array.dtype} {list(array.shape)}"
    raise ArrayError(f"clients: whole numbers or names [{examples}] are allowed, not {what}")


def _array(what: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of unequal length
        raise ArrayError(f"{what}: {error}") from error


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows of about `_PIECE` entries."""
    rows = max(1, _PIECE * len(array) // array.size)
    return (array[first : first + rows] for first in range(0, len(array), rows))


def _to_float32(array: np.ndarray, scale: Scale | None) -> np.ndarray:
    """The array in float32, normalised in float64 before if there is a scale."""
    if scale is None:
        return array.astype(np.float32, copy=False)
    converted = np.empty(array.shape, np.float32)
    for piece, destination in zip(_pieces(array), _pieces(converted), strict=True):
        destination[...] = (piece.astype(np.float64) - scale.mean) / scale.std
    return converted


def _scale_of(array: np.ndarray, normalise: bool) -> tuple[Scale | None, tuple[str, ...]]:
    """The scale to normalise with if float32 is too coarse, and notes on values that are lost."""
    notes = _notes_on_lost_values(array, None)
    if not normalise:
        return None, notes
    scale, is_too_fine = _moments(array)
    if not is_too_fine and not notes:
        return None, ()
    return scale, _notes_on_lost_values(array, scale)


def _moments(array: np.ndarray) -> tuple[Scale, bool]:
    """Mean and deviation of each feature, and whether float32 is too coarse for any feature."""
    features = array.shape[-1]

    def mean(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        rows = (of(piece.reshape(-1, features).astype(np.float64)) for piece in _pieces(array))
        return sum(values.sum(0) for values in rows) * (features / array.size)

    # Means of differences from the first example: the mean of a constant feature is then exact.
    first = array.reshape(-1, features)[0].astype(np.float64)
    centre = first + mean(lambda x: x - first)
    std = np.sqrt(mean(lambda x: np.square(x - centre)))
    is_steep = np.abs(centre) > _LARGEST_RATIO * std
    is_too_fine = (std > 0) & (is_steep | (std < _LEAST_DEVIATION))
    return Scale(centre, np.where(std > 0, std, 1.0)), bool(is_too_fine.any())


def _notes_on_lost_values(array: np.ndarray, scale: Scale | None) -> tuple[str, ...]:
    """A line on the features of which float32 makes many distinct values equal; or no line."""
    features = array.shape[-1]
    rows = array[: max(2, _SAMPLE * len(array) // array.size)].reshape(-1, features)
    block_size = max(1, _PIECE // len(rows))
    counts = []
    for first in range(0, features, block_size):
        block = slice(first, first + block_size)
        block_scale = None if scale is None else Scale(scale.mean[block], scale.std[block])
        # Normalising and rounding keep the order, so values that become equal are neighbours.
        values = np.sort(rows[:, block].astype(np.float64), axis=0)
        is_distinct = np.diff(values, axis=0) != 0
        is_lost = is_distinct & (np.diff(_to_float32(values, block_scale), axis=0) == 0)
        counts.append(np.stack([1 + is_distinct.sum(0), is_lost.sum(0)]))
    distinct, lost = np.concatenate(counts, axis=1)
    (coarse,) = np.nonzero(lost > _MOST_LOST * distinct)
    if not coarse.size:
        return ()
    n, more = coarse[0], f", and so in {len(coarse) - 1} more features" if len(coarse) > 1 else ""
    become = f"{distinct[n]} values of feature {n} become {distinct[n] - lost[n]}"
    return (f"inputs: in float32 {become}{more}",)
