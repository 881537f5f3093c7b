"""Values of settings as plain Python values, whatever a script has them as."""

import dataclasses
import functools
import numbers
import os
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from jfedsl.errors import flag_error


class Kind(NamedTuple):
    """What a setting is: `of` str, int, float or bool, or a tuple of these, or None as well."""

    of: type
    several: bool
    optional: bool


@functools.cache
def kinds(settings: type) -> dict[str, Kind]:
    """The kinds of a dataclass's fields, from their types; of a union the first counts.

    Raises:
      TypeError: a field of another type.
    """
    hints = get_type_hints(settings)
    return {field.name: _kind(hints[field.name]) for field in dataclasses.fields(settings)}


def _kind(hint: Any) -> Kind:
    union = get_origin(hint) in (Union, types.UnionType)
    options = get_args(hint) if union else (hint,)
    several = get_origin(options[0]) is tuple
    of = get_args(options[0])[0] if several else options[0]
    if of not in _READERS:
        raise TypeError(f"a setting cannot be {hint}")
    return Kind(of, several, types.NoneType in options)


def read(name: str, value: Any, kind: Kind, allowed: str) -> Any:
    """The plain value that a setting means.

    Paths become text; NumPy's and JAX's numbers become Python's, with the digits that they are
    printed with; a whole number may be a float; text is read as on the command line; numbers stand
    for the text that says them, separated by commas; one number stands for a tuple of it.

    Args:
      name: of the setting.
      value: as given.
      kind: of the setting.
      allowed: what it may be, in words.

    Raises:
      UserError: names the setting: the value means nothing of that kind.
    """
    try:
        plain = _plain(value)
        return _several(plain, kind.of) if kind.several else _READERS[kind.of](plain)
    except UnicodeEncodeError:
        raise flag_error(name, value, "text in UTF-8") from None
    except (ValueError, TypeError, OverflowError):
        raise flag_error(name, value, allowed) from None


def _plain(value: Any) -> Any:
    """A path as text, an array as a number or a list of numbers; all else as it is."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.ndim > 1:
        raise ValueError(f"an array of shape {array.shape}")
    numbers = [_digits(one) for one in array.ravel()]
    return numbers if array.ndim else numbers[0]


def _digits(value: np.generic) -> Any:
    """A Python number; 0.1 for a float32 that is printed as 0.1."""
    number = value.item()
    return float(str(value)) if isinstance(number, float) else number


def _several(value: Any, of: type) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = value.split(",") if value else []
    elif not isinstance(value, (list, tuple, range)):
        value = [value]
    return tuple(_READERS[of](_plain(one)) for one in value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(_number(_plain(one))) for one in value)
    text = str(value if isinstance(value, str) else _number(value))
    text.encode()  # bytes that are no UTF-8 come from the command line as halves of characters
    return text


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("no number")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _whole(value: Any) -> int:
    number = int(value) if isinstance(value, str) else _number(value)
    if number != int(number):
        raise ValueError("no whole number")
    return int(number)


def _float(value: Any) -> float:
    return float(value) if isinstance(value, str) else float(_number(value))


def _truth(value: Any) -> bool:
    words = {"true": True, "false": False}
    truth = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise ValueError("neither true nor false")
    return truth


_READERS: dict[type, Callable[[Any], Any]] = {str: _text, int: _whole, float: _float, bool: _truth}


def shown(value: Any) -> str:
    """A value as it is written in a flag."""
    if isinstance(value, tuple):
        return ",".join(one if isinstance(one, str) else f"{one:g}" for one in value)
    return str(value)
