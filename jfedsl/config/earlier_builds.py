"""What a config of an earlier build meant by settings that it lacks or leaves to their defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS

DEFAULTS = "defaults"  # in a config's JSON: the number of the defaults of compressors
NOW = 2
_FIRST = 1  # these were written without a number
# The first ones, where an algorithm compresses by default; all other shorthands are as they were.
_FIRST_DEFAULTS = {"dropout_rate": "0.2", "smashed_bits": "32"}


def defaults_of(fields: dict[str, Any]) -> int:
    """Takes the number of the defaults of compressors out of what was written.

    Raises:
      TypeError: a later build wrote it.
    """
    number = fields.pop(DEFAULTS, _FIRST)
    if type(number) is not int or number not in (_FIRST, NOW):
        raise TypeError(f"its defaults are {number!r}, and this build knows {_FIRST} and {NOW}")
    return number


def meant(config: Any, fields: Mapping[str, Any], defaults: int) -> Any:
    """The config with all that it meant when it was written.

    Args:
      config: a `Config`, as this build reads `fields`.
      fields: as they were written.
      defaults: number of the defaults of compressors, see `defaults_of`.
    """
    changes: dict[str, Any] = {
        option.name: option.before
        for option in ALGORITHMS[config.algorithm].options
        if option.name not in fields
        and hasattr(config, option.name)  # not an option of a plugin's algorithm
        and option.before is not None
        and not option.idle(config)
    }
    if defaults == _FIRST and config.compress_by_default and not config.smashed:
        left_out = (name for name in _FIRST_DEFAULTS if name in fields and fields[name] is None)
        changes |= {name: _FIRST_DEFAULTS[name] for name in left_out}
    return dataclasses.replace(config, **changes)
