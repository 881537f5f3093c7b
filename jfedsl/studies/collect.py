"""Runs as they lie in their folders, gathered by setting; names that no table has will do."""

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
from jfedsl.run.storage import ledger
from jfedsl.run.storage.metrics import METRICS, Row, read
from jfedsl.run.storage.workdir import CONFIG, read_config
from jfedsl.studies.study import RESULTS, folder_name

# Runs that differ in these alone are of one setting.
FREE = (
    "workdir", "plugin", "seed", "data_dir", "progress", "compilation_cache", "checkpoint_every",
    "target_accuracy", "client_chunk",
)  # fmt: skip


class Found(NamedTuple):
    """A run as it lies in its folder; `case` is what a study or sweep called its setting."""

    folder: Path
    config: Config
    rows: list[Row]
    case: str | None

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.rows[-1]["round"] >= self.config.rounds


class Setting(NamedTuple):
    """Runs that differ in their seeds alone, with the flags that tell them from other settings."""

    name: str
    flags: dict[str, str]
    runs: list[Found]


def find(paths: Sequence[Path]) -> tuple[list[Found], list[Path]]:
    """The runs in folders, each a run's own or one with runs somewhere below.

    Returns:
      The runs that have been evaluated once at least, and the folders of those that have not.

    Raises:
      UserError: a folder without a run of the first kind, or with one that cannot be read.
    """
    found: dict[Path, Found | Path] = {}
    for path in paths:
        folders = _folders(path)
        for folder, case in folders.items():
            config, metrics = read_config(folder, parse=recorded), folder / METRICS
            rows = read(metrics) if ledger.exists(metrics) else []
            evaluated = config is not None and any(r["test_accuracy"] is not None for r in rows)
            run = Found(folder, config, rows, case) if config is not None and evaluated else folder
            found.setdefault(folder.resolve(), run)
        if not any(isinstance(found[folder.resolve()], Found) for folder in folders):
            raise UserError(f"{path} must be a folder with a run that was evaluated at least once")
    runs = [run for run in found.values() if isinstance(run, Found)]
    return runs, [folder for folder in found.values() if isinstance(folder, Path)]


def _folders(path: Path) -> dict[Path, str | None]:
    """Folders of runs in a folder, each with what a study or sweep called its setting, if one did.

    Those of a sweep come in its order, others by name.
    """
    found = [file for name in (CONFIG, METRICS) for file in path.rglob(name)]  # one may be gone
    folders = {file.parent for file in found}
    sweeps = {folder: folder.resolve().parent.parent for folder in folders}
    cases = {sweep: _cases(sweep / RESULTS) for sweep in set(sweeps.values())}

    def order(folder: Path) -> tuple[Any, ...]:
        own, name = list(cases[sweeps[folder]]), folder.resolve().parent.name
        place = own.index(name) if name in own else len(own)
        return _natural(str(sweeps[folder])), place, _natural(str(folder))

    def case(folder: Path) -> str | None:
        name = folder.resolve().parent.name
        seed = re.fullmatch(r"seed_\d+", folder.resolve().name)
        return cases[sweeps[folder]].get(name, name) if seed else None

    return {folder: case(folder) for folder in sorted(folders, key=order)}


def _cases(results: Path) -> dict[str, str]:
    """Settings of a sweep in its order, by the names of their folders; none without its table."""
    try:
        rows = list(csv.DictReader(io.StringIO(results.read_text(errors="surrogateescape"))))
        return {folder_name(row["setting"]): row["setting"] for row in rows}
    except (OSError, ValueError, csv.Error, KeyError, TypeError):
        return {}


def _natural(text: str) -> list[str | int]:
    """A key that sorts numbers in texts by their size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def settings_of(runs: Sequence[Found]) -> list[Setting]:
    """Runs by setting, in the order found.

    Named as the study or sweep that made them did, else by the flags in which settings differ.
    A setting is of its finished runs, unless it has none.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Found]] = {}
    for run in runs:
        key = tuple(pair for pair in canonical(run.config).items() if pair[0] not in FREE)
        own = groups.setdefault(key, [])
        if run.config.seed not in [other.config.seed for other in own]:
            own.append(run)  # the same run elsewhere is no other seed
    members = [[run for run in own if run.finished] or own for own in groups.values()]
    flags = [dict(key) for key in groups]
    usual = {field.name: shown(field.default) for field in dataclasses.fields(Config)}

    def tells(flag: str, value: str) -> bool:
        there = [own[flag] for own in flags if flag in own]
        unusual = len(there) < len(flags) and value not in (usual[flag], "none")
        return len(set(there)) > 1 or unusual

    differing = [{k: v for k, v in own.items() if tells(k, v)} for own in flags]
    cases = [_case_of(own) for own in groups.values()]
    named = None not in cases and len(set(cases)) == len(cases)
    return [
        Setting(str(case) if named else written(own) or "default", own, some)
        for case, own, some in zip(cases, differing, members, strict=True)
    ]


def _case_of(runs: Sequence[Found]) -> str | None:
    """What a study or sweep called the setting of these runs, if one did."""
    cases = {run.case for run in runs}
    return cases.pop() if len(cases) == 1 else None


def written(flags: Mapping[str, str]) -> str:
    """Flags with their values on one line."""
    return ", ".join(f"{flag}={value}" for flag, value in flags.items())
