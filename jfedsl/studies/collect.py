"""Recorded runs read from their folders and grouped by setting.

Nothing is built, so models, data sets and compressors that no table has any more do not matter.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfedsl.config import Config, shown
from jfedsl.config.canonical import canonical, recorded
from jfedsl.errors import UserError
from jfedsl.run.early_stopping import ended_by_flags
from jfedsl.run.storage import ledger
from jfedsl.run.storage.fingerprints import task_in
from jfedsl.run.storage.metrics import METRICS, read
from jfedsl.run.storage.task_record import Row, TaskRecord
from jfedsl.run.storage.workdir import CONFIG, read_config
from jfedsl.studies.configs import folder_name
from jfedsl.studies.records import NOT_RECORDED
from jfedsl.studies.sweep import RESULTS

# Flags that are not part of a setting: runs that differ in no others are of the same setting.
NOT_OF_SETTING = (*NOT_RECORDED, "seed", "target_accuracy")


class RecordedRun(NamedTuple):
    """A run as its folder records it.

    Attributes:
      folder: of the run.
      config: of the run.
      task: what it is judged by.
      rows: of its metrics.csv.
      case: name that a study or sweep gave the setting; None for other runs.
    """

    folder: Path
    config: Config
    task: TaskRecord
    rows: list[Row]
    case: str | None

    @property
    def finished(self) -> bool:
        """Whether all rounds are done, or flags have ended the run before."""
        all_done = self.rows[-1]["round"] >= self.config.rounds
        return all_done or ended_by_flags(self.config, self.rows, self.task)


class Setting(NamedTuple):
    """The runs of one setting, which differ in their seeds.

    Attributes:
      name: of the setting.
      flags: values of the flags that tell the setting from the others.
      runs: one for each seed.
    """

    name: str
    flags: dict[str, str]
    runs: list[RecordedRun]


def find_runs(paths: Sequence[Path]) -> tuple[list[RecordedRun], list[Path]]:
    """The runs in folders. A folder is that of a run, or has runs at any depth.

    Returns:
      The runs that were evaluated at least once, and the folders of the others.

    Raises:
      UserError: a folder has no evaluated run, or one that cannot be read.
    """
    evaluated: dict[Path, RecordedRun] = {}
    others: dict[Path, Path] = {}
    for path in paths:
        folders = _folders(path)
        for folder, case in folders.items():
            key = folder.resolve()
            if key in evaluated or key in others:
                continue
            run = _read_run(folder, case)
            if run is None:
                others[key] = folder
            else:
                evaluated[key] = run
        if not any(folder.resolve() in evaluated for folder in folders):
            raise UserError(f"{path} must be a folder with a run that was evaluated at least once")
    return list(evaluated.values()), list(others.values())


def _read_run(folder: Path, case: str | None) -> RecordedRun | None:
    """The run of a folder; None if it was never evaluated."""
    config, metrics = read_config(folder, parse=recorded), folder / METRICS
    task = task_in(folder)
    rows = read(metrics, task) if ledger.exists(metrics) else []
    if config is None or all(row[task.tested] is None for row in rows):
        return None
    return RecordedRun(folder, config, task, rows, case)


def _folders(path: Path) -> dict[Path, str | None]:
    """The folders of runs within a folder, with the case that a study or sweep gave each, if any.

    Folders of a sweep have the order of its table; others are sorted by name.
    """
    files = [file for name in (CONFIG, METRICS) for file in path.rglob(name)]  # one may be missing
    folders = {file.parent for file in files}
    sweeps = {folder: folder.resolve().parent.parent for folder in folders}
    cases = {sweep: _cases(sweep / RESULTS) for sweep in set(sweeps.values())}

    def order(folder: Path) -> tuple[Any, ...]:
        listed, name = list(cases[sweeps[folder]]), folder.resolve().parent.name
        row = listed.index(name) if name in listed else len(listed)
        return _natural(str(sweeps[folder])), row, _natural(str(folder))

    def case(folder: Path) -> str | None:
        name = folder.resolve().parent.name
        seed = re.fullmatch(r"seed_\d+", folder.resolve().name)
        return cases[sweeps[folder]].get(name, name) if seed else None

    return {folder: case(folder) for folder in sorted(folders, key=order)}


def _cases(results: Path) -> dict[str, str]:
    """The cases in a sweep's table by the names of their folders; none if it cannot be read."""
    try:
        rows = list(csv.DictReader(io.StringIO(results.read_text(errors="surrogateescape"))))
        return {folder_name(row["setting"]): row["setting"] for row in rows}
    except (OSError, ValueError, csv.Error, KeyError, TypeError):
        return {}


def _natural(text: str) -> list[str | int]:
    """A key that sorts the numbers in a text by value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def of_setting(config: Config) -> dict[str, str]:
    """The flags of a config that tell its setting, with their values as written in a flag."""
    left_out = set(NOT_OF_SETTING) - ({"target_accuracy"} if config.stop_at_target else set())
    return {name: value for name, value in canonical(config).items() if name not in left_out}


def settings_of(runs: Sequence[RecordedRun]) -> list[Setting]:
    """Groups runs by setting, in the order of the runs.

    A setting has the name that its study or sweep gave it, or else that of the flags in which
    settings differ. Unfinished runs are left out, unless the setting has no others.
    """
    groups: dict[tuple[tuple[str, str], ...], list[RecordedRun]] = {}
    for run in runs:
        key = tuple(of_setting(run.config).items())
        group = groups.setdefault(key, [])
        if run.config.seed not in [other.config.seed for other in group]:  # a copy is no new seed
            group.append(run)
    flags = [dict(key) for key in groups]
    defaults = {field.name: shown(field.default) for field in dataclasses.fields(Config)}

    def distinguishes(flag: str, value: str) -> bool:
        values = [of_setting[flag] for of_setting in flags if flag in of_setting]
        in_some_only = len(values) < len(flags) and value not in (defaults[flag], "none")
        return len(set(values)) > 1 or in_some_only

    differing = [{k: v for k, v in of.items() if distinguishes(k, v)} for of in flags]
    cases = [_case_of(group) for group in groups.values()]
    named = None not in cases and len(set(cases)) == len(cases)
    settings = []
    for case, its_flags, group in zip(cases, differing, groups.values(), strict=True):
        name = str(case) if named else flag_text(its_flags) or "default"
        finished = [run for run in group if run.finished]
        settings.append(Setting(name, its_flags, finished or group))
    return settings


def _case_of(runs: Sequence[RecordedRun]) -> str | None:
    """The case that all these runs have; None if they have several or none."""
    cases = {run.case for run in runs}
    return cases.pop() if len(cases) == 1 else None


def flag_text(flags: Mapping[str, str]) -> str:
    """Flags and their values on one line."""
    return ", ".join(f"{flag}={value}" for flag, value in flags.items())
