"""What a config of an earlier build meant by settings that it lacks or leaves to their defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS

# Written with every config: the number of the defaults of compressors. Defaults 1 had no number.
MARK = {"defaults": 2}
UNMARKED = 1
# Defaults 1, where an algorithm compresses by default; all other shorthands are as they were.
_DEFAULTS_1 = {"dropout_rate": "0.2", "smashed_bits": "32"}


def meant(config: Any, fields: Mapping[str, Any], defaults: int) -> Any:
    """The config with all that it meant when it was written.

    Args:
      config: a `Config`, as this build reads `fields`.
      fields: as they were written.
      defaults: number of the defaults of compressors, or `UNMARKED`.
    """
    changes: dict[str, Any] = {
        option.name: option.before
        for option in ALGORITHMS[config.algorithm].options
        if option.name not in fields
        and hasattr(config, option.name)  # not an option of a plugin's algorithm
        and option.before is not None
        and not option.idle(config)
    }
    if defaults == UNMARKED and config.compress_by_default and not config.smashed:
        absent = (name for name in _DEFAULTS_1 if getattr(config, name) is None)
        changes |= {name: _DEFAULTS_1[name] for name in absent}
    return dataclasses.replace(config, **changes)
