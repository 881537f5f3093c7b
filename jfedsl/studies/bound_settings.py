"""The settings of a study of the bound: one thing is varied at a time, each setting is run once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jfedsl.config import Config
from jfedsl.config.canonical import cut_name
from jfedsl.errors import flag_error
from jfedsl.studies.configs import Changes, run_configs

# By the name of what is varied: by its values, the fields of the base that they change.
Sweeps = Mapping[str, Mapping[str, Changes]]


class Settings(NamedTuple):
    """The settings of a study.

    Attributes:
      names: by the name of what is varied: by its values, the name of the setting. Sweeps may share
        a setting.
      configs: by the name of a setting, its config, without seed and folder.
      runs: by the name of a setting, the configs of its runs in the order of the seeds.
    """

    names: dict[str, dict[str, str]]
    configs: dict[str, Config]
    runs: dict[str, list[Config]]


def settings_of(base: Config, sweeps: Sweeps, seeds: Sequence[int]) -> Settings:
    """All settings of all sweeps.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the study.
      sweeps: what to vary.
      seeds: of every setting.

    Raises:
      UserError: no folder, no measurement of constants, or an impossible setting.
    """
    if base.measure_constants_every is None:
        raise flag_error("measure_constants_every", None, "a number of rounds in this study")
    known: dict[Config, str] = {}
    changes_of: dict[str, Changes] = {}
    names: dict[str, dict[str, str]] = {}
    for varied, values in sweeps.items():
        names[varied] = {}
        for value, changes in values.items():
            name = known.setdefault(dataclasses.replace(base, **changes), f"{varied} {value}")
            changes_of.setdefault(name, changes)
            names[varied][value] = name
    for config in known:
        cut_name(config)  # refuses a wrong cut before anything is trained
    configs = {name: config for config, name in known.items()}
    return Settings(names, configs, run_configs(base, changes_of, seeds))
