"""The configs of a study's runs: one for each setting and seed, each with a folder."""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jfedsl.config import Config
from jfedsl.config.allowed import FROM_DATA
from jfedsl.errors import UserError, conflict, flag_error
from jfedsl.files.program import other_program
from jfedsl.run.assemble.shares import counted

Changes = Mapping[str, Any]  # fields of a config and their new values

_LONGEST = 100  # characters of a folder's name


def seeds_of(texts: Sequence[str], flag: str = "seeds") -> list[int]:
    """Seeds from the entries of --seeds, or of another flag.

    Raises:
      UserError: no entries, a repeated one, or one that is not a whole number.
    """
    if (
        not texts
        or len(set(texts)) < len(texts)
        or not all(re.fullmatch("[0-9]{1,10}", text) for text in texts)
    ):
        raise flag_error(flag, ",".join(texts), "whole numbers separated by commas, each once")
    return [int(text) for text in texts]


def run_configs(
    base: Config, settings: Mapping[str, Changes], seeds: Sequence[int]
) -> dict[str, list[Config]]:
    """The configs of all runs: one for each setting and seed, each with a workdir.

    Clients that a setting leaves to its data are counted.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the study, in which
        every run has a folder.
      settings: by name, what a setting changes in the base.
      seeds: of every setting.

    Returns:
      By the name of the setting, its configs in the order of the seeds.

    Raises:
      UserError: no folder, an impossible setting, or two runs with the same folder.
    """
    if not base.workdir:
        raise flag_error("workdir", "", "a folder for the study")
    if base.coordinator:
        sweep = shlex.join(other_program("sweep")).removeprefix("python ")
        reason = f"{sweep} divides the runs among processes by --shard"
        raise conflict("coordinator", base.coordinator, "a study of many runs", reason)
    if base.seed != Config.seed:
        raise UserError(f"--seed={base.seed} is for one run; set --seeds={base.seed}")

    def run_config(name: str, config: Config, seed: int) -> Config:
        folder = Path(base.workdir) / folder_name(name) / f"seed_{seed}"
        return dataclasses.replace(config, seed=seed, workdir=str(folder))

    whole = _all_counted([dataclasses.replace(base, **changes) for changes in settings.values()])
    configs = {
        name: [run_config(name, config, seed) for seed in seeds]
        for name, config in zip(settings, whole, strict=True)
    }
    folders = [config.workdir for of_setting in configs.values() for config in of_setting]
    shared = next((folder for folder in folders if folders.count(folder) > 1), None)
    if shared is not None:
        raise UserError(
            f"two runs of the study would share {shared}; give settings different names, and each "
            "seed once"
        )
    return configs


def _all_counted(configs: Iterable[Config]) -> list[Config]:
    """The configs with their numbers of clients; each data set is loaded once."""
    numbers: dict[tuple[Any, ...], int] = {}

    def with_number(config: Config) -> Config:
        if config.clients != FROM_DATA:
            return config
        data = config.dataset, config.data_dir, config.train_examples
        if data not in numbers:
            numbers[data] = counted(config).clients
        return dataclasses.replace(config, clients=numbers[data])

    return [with_number(config) for config in configs]


def folder_name(name: str) -> str:
    """The folder of a setting: its name, shortened, without characters special to a shell."""
    plain = re.sub(r"[^\w.=-]+", "_", name).strip("_.") or "setting"
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}_{digest}"
