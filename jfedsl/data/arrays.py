"""A user's own arrays: what is allowed of them, and how they are held.

All of it goes through inputs in pieces, so that nothing but what is held takes memory.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_LARGEST, _MOST_CLASSES = 1e15, 1_000_000
_WHOLE = 2**24  # float32 holds all whole numbers up to it
_PIECE = 1 << 18  # numbers of a piece
_SAMPLE = 1 << 20  # numbers looked at to tell whether float32 holds them apart
# Beyond these float32 blurs a feature: its mean over its deviation, and its deviation.
_STEEP, _FAINT = 2.0**10, 1e-15
_LOST = 0.01  # share of distinct values that become equal


class ArrayError(ValueError):
    """An array that cannot be used; the text names it and says what is allowed."""


class Scale(NamedTuple):
    """What inputs were normalised with, float64.

    Attributes:
      mean: of each feature, `[C]`, in its own unit.
      std: standard deviation of each feature, `[C]`, 1 for a constant one.
    """

    mean: np.ndarray
    std: np.ndarray


class Held(NamedTuple):
    """Inputs of both splits as they are held.

    Attributes:
      train: uint8, float32 or int32 `[N, ..., C]`.
      test: likewise.
      scale: what both were normalised with; None where they were not.
      notes: what was lost, a line each.
    """

    train: np.ndarray
    test: np.ndarray
    scale: Scale | None
    notes: tuple[str, ...]


def hold(train: Any, test: Any, normalise: bool) -> Held:
    """Inputs as they are held.

    Bytes stay bytes. Without `normalise` whole numbers become int32. All others become float32,
    normalised before where float32 cannot hold what tells them apart.

    Args:
      train: inputs `[N, ..., C]`.
      test: likewise.
      normalise: whether a run normalises them.

    Raises:
      ArrayError: they are no inputs.
    """
    arrays = [_inputs("train", train, normalise), _inputs("test", test, normalise)]
    types = [_held_type(array.dtype, normalise) for array in arrays]
    kinds = [f"{d} {list(x.shape[1:])}" for d, x in zip(types, arrays, strict=True)]
    if kinds[0] != kinds[1]:
        raise ArrayError(f"test inputs: {kinds[0]} as the train inputs are allowed, not {kinds[1]}")
    if types[0] != np.float32:
        own, other = (array.astype(types[0], copy=False) for array in arrays)
        return Held(own, other, None, ())
    scale, notes = _scale_of(arrays[0], normalise)
    return Held(_float32(arrays[0], scale), _float32(arrays[1], scale), scale, notes)


def _held_type(dtype: np.dtype, normalise: bool) -> np.dtype:
    if dtype == np.uint8:
        return dtype
    return np.dtype(np.float32 if normalise or dtype.kind == "f" else np.int32)


def _inputs(name: str, values: Any, normalise: bool) -> np.ndarray:
    """Inputs as they are given, once training cannot stumble over them later."""
    array = _array(f"{name} inputs", values)
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "buif":
        what = f"{array.dtype} {list(array.shape)}"
        raise ArrayError(f"{name} inputs: real numbers [N, ..., C] are allowed, not {what}")
    if array.dtype == np.uint8:
        return array
    if not normalise and array.dtype.kind != "f":
        least, most = array.min(), array.max()
        if least < -_WHOLE or most > _WHOLE:
            allowed = f"whole numbers from {-_WHOLE} to {_WHOLE} are allowed with normalise=False"
            raise ArrayError(f"{name} inputs: {allowed}, not {least} to {most}")
    # Squares of larger ones, and sums of those, overflow float32.
    elif not all((np.abs(piece.astype(np.float64)) < _LARGEST).all() for piece in _pieces(array)):
        raise ArrayError(f"{name} inputs: finite numbers below {_LARGEST:g} are allowed")
    return array


def labels(name: str, values: Any, examples: int) -> np.ndarray:
    """Labels as int32 `[examples]`.

    Raises:
      ArrayError: they are something else.
    """
    array = _array(f"{name} labels", values)
    if array.shape != (examples,) or array.dtype.kind not in "ui":
        what = f"{array.dtype} {list(array.shape)}{_remedy(array, examples)}"
        raise ArrayError(f"{name} labels: whole numbers [{examples}] are allowed, not {what}")
    if array.min() < 0 or array.max() >= _MOST_CLASSES:
        found = f"{array.min()} to {array.max()}"
        raise ArrayError(f"{name} labels: 0 to {_MOST_CLASSES - 1} are allowed, not {found}")
    return array.astype(np.int32)


def _remedy(array: np.ndarray, examples: int) -> str:
    """What makes labels of a usual kind into whole numbers."""
    if array.shape == (examples, 1):
        return "; labels[:, 0] has one axis"
    if array.ndim == 2 and len(array) == examples:
        return "; labels.argmax(1) are the classes of one-hot rows"
    if array.dtype.kind in "fb":
        return "; labels.astype(int) are whole numbers"
    if array.dtype.kind in "SUO":
        return "; np.unique(labels, return_inverse=True)[1] numbers names"
    return ""


def owners(values: Any, examples: int) -> np.ndarray:
    """Which client each example belongs to, `[examples]`.

    Raises:
      ArrayError: they are not a number or a name for each example.
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
    """Some rows after the other."""
    step = max(1, _PIECE * len(array) // array.size)
    return (array[first : first + step] for first in range(0, len(array), step))


def _float32(array: np.ndarray, scale: Scale | None) -> np.ndarray:
    if scale is None:
        return array.astype(np.float32, copy=False)
    out = np.empty(array.shape, np.float32)
    for piece, into in zip(_pieces(array), _pieces(out), strict=True):
        into[...] = (piece.astype(np.float64) - scale.mean) / scale.std
    return out


def _scale_of(array: np.ndarray, normalise: bool) -> tuple[Scale | None, tuple[str, ...]]:
    """What to normalise with before the run if float32 blurs inputs; what is lost all the same."""
    notes = _merged(array, None)
    if not normalise:
        return None, notes
    scale, blurred = _moments(array)
    return (scale, _merged(array, scale)) if blurred or notes else (None, ())


def _moments(array: np.ndarray) -> tuple[Scale, bool]:
    """Mean and deviation of each feature, and whether float32 is too coarse for any.

    From the first example on, so that a constant feature has its own value as its mean.
    """
    features = array.shape[-1]

    def mean(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        rows = (of(piece.reshape(-1, features).astype(np.float64)) for piece in _pieces(array))
        return sum(values.sum(0) for values in rows) * (features / array.size)

    first = array.reshape(-1, features)[0].astype(np.float64)
    centre = first + mean(lambda x: x - first)
    std = np.sqrt(mean(lambda x: np.square(x - centre)))
    blurred = (std > 0) & ((np.abs(centre) > _STEEP * std) | (std < _FAINT))
    return Scale(centre, np.where(std > 0, std, 1.0)), bool(blurred.any())


def _merged(array: np.ndarray, scale: Scale | None) -> tuple[str, ...]:
    """A line on features of which distinct values become equal, more than a few; or none."""
    features = array.shape[-1]
    rows = array[: max(2, _SAMPLE * len(array) // array.size)].reshape(-1, features)
    block = max(1, _PIECE // len(rows))  # features at once
    counts = []
    for first in range(0, features, block):
        own = slice(first, first + block)
        part = None if scale is None else Scale(scale.mean[own], scale.std[own])
        # Both steps leave the order as it is: what becomes equal lies side by side.
        values = np.sort(rows[:, own].astype(np.float64), axis=0)
        distinct = np.diff(values, axis=0) != 0
        lost = distinct & (np.diff(_float32(values, part), axis=0) == 0)
        counts.append(np.stack([1 + distinct.sum(0), lost.sum(0)]))
    whole, gone = np.concatenate(counts, axis=1)
    (found,) = np.nonzero(gone > _LOST * whole)
    if not found.size:
        return ()
    n, more = found[0], f", and so in {len(found) - 1} more features" if len(found) > 1 else ""
    become = f"{whole[n]} values of feature {n} become {whole[n] - gone[n]}"
    return (f"inputs: in float32 {become}{more}",)
