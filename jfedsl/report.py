"""A report of any set of runs: what they took to a target accuracy, their curves and pictures."""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jfedsl import links
from jfedsl.config import Config, shown
from jfedsl.errors import UserError, flag_error
from jfedsl.resolved import resolved
from jfedsl.runtime import figures
from jfedsl.runtime.metrics import COLUMNS, STREAMS, Row, read, summarise
from jfedsl.runtime.page import page
from jfedsl.runtime.workdir import CONFIG, read_config, write_atomically
from jfedsl.study import (
    JOULES,
    MEGABYTES,
    ROUND,
    SECONDS,
    Column,
    curves,
    mean,
    megabytes,
    megabytes_to_target,
    simulated,
)

# Runs that differ in these alone are of one setting.
_FREE = (
    "workdir", "seed", "data_dir", "progress", "compilation_cache", "checkpoint_every",
    "target_accuracy", "client_chunk",
)  # fmt: skip
# What a reader asks first.
_MAIN = (
    "algorithm", "dataset", "model", "cut", "clients", "participants", "rounds", "local_steps",
    "batch_size", "aggregate_every", "partition", "dirichlet_alpha", "optimizer",
    "client_learning_rate", "server_learning_rate", "prune_kind", "prune_rate", *links.PLACES,
    "network",
)  # fmt: skip
PICTURES = {
    "labels.png": "Examples of each class that each client has",
    "timeline.png": "The last round on the simulated clock: who waits for whom",
    "masks.png": "What is pruned: how much of the masks stays, how much of each layer is kept",
}


class Found(NamedTuple):
    """A run as it lies in its folder."""

    folder: Path
    config: Config
    rows: list[Row]

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
        configs = sorted(path.rglob(CONFIG)) if path.is_dir() else []
        folders = [config.parent for config in configs]
        for folder in folders:
            config, rows = read_config(folder), _rows(folder / "metrics.csv")
            evaluated = config is not None and any(r["test_accuracy"] is not None for r in rows)
            run = Found(folder, config, rows) if config is not None and evaluated else folder
            found.setdefault(folder.resolve(), run)
        if not any(isinstance(found[folder.resolve()], Found) for folder in folders):
            raise UserError(f"{path}: allowed is a folder of runs that have been evaluated once")
    runs = [run for run in found.values() if isinstance(run, Found)]
    return runs, [folder for folder in found.values() if isinstance(folder, Path)]


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        rows = read(path)
        _ = [row[name] for row in rows for name in COLUMNS]
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not the metrics of a run ({error!r})") from None
    return rows


def settings_of(runs: Sequence[Found]) -> list[Setting]:
    """Runs by setting, in the order found.

    Named as the study or sweep that made them did, else by the flags in which settings differ.
    A setting is of its finished runs, unless it has none.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Found]] = {}
    for run in runs:
        key = tuple(pair for pair in resolved(run.config).items() if pair[0] not in _FREE)
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
    folders = [_folder_of(own) for own in groups.values()]
    named = None not in folders and len(set(folders)) == len(folders)
    return [
        Setting(str(folder) if named else _written(own) or "default", own, some)
        for folder, own, some in zip(folders, differing, members, strict=True)
    ]


def _written(flags: Mapping[str, str]) -> str:
    return ", ".join(f"{flag}={value}" for flag, value in flags.items())


def _folder_of(runs: Sequence[Found]) -> str | None:
    """What a study or sweep called the setting of these runs, if one did."""
    names = {run.folder.resolve().parent.name for run in runs}
    own = all(re.fullmatch(r"seed_\d+", run.folder.resolve().name) for run in runs)
    return names.pop() if own and len(names) == 1 else None


def _table(settings: Sequence[Setting], columns: Mapping[str, Column], target: float) -> str:
    titles = ["setting", "seeds", *columns]
    lines = [f"| {' | '.join(titles)} |", "| --- " + "| ---: " * (len(titles) - 1) + "|"]
    for name, _, runs in settings:
        summaries = [summarise(run.rows, target) for run in runs]
        cells = [mean([column(s) for s in summaries]) for column in columns.values()]
        lines.append(f"| {_escaped(name)} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """A text that neither Markdown nor HTML read anything into."""
    return "".join(f"&#{ord(c)};" if c in "\\`*[]|<>&" else c for c in text)


def _tables(settings: Sequence[Setting], target: float) -> list[str]:
    reached: dict[str, Column] = {
        "test accuracy": lambda s: s["final_accuracy"],
        "best": lambda s: s["best_accuracy"],
        "rounds": lambda s: s["rounds_to_target"],
        "megabytes": megabytes_to_target,
        "simulated seconds": simulated("seconds_to_target"),
        "joules": simulated("joules_to_target"),
    }
    streams = {f"{name.replace('_', ' ')} MB": megabytes(name) for name in STREAMS}
    whole: dict[str, Column] = {
        "rounds": lambda s: s["rounds"],
        **streams,
        "simulated seconds": simulated("seconds"),
        "joules": simulated("energy_joules"),
        "host seconds": lambda s: s["host_seconds"],
    }
    return [
        f"## To test accuracy {target:g}",
        "Means over seeds, least to greatest; how many reached it, if not all; a dash for none.",
        _table(settings, reached, target),
        "## In all",
        _table(settings, whole, target),
    ]


def _curves(settings: Sequence[Setting], title: str, path: Path) -> None:
    clock = all("energy_joules" in run.rows[0] for own in settings for run in own.runs)
    axes = (ROUND, MEGABYTES, SECONDS, JOULES) if clock else (ROUND, MEGABYTES)
    drawn = {own.name: curves([run.rows for run in own.runs], axes) for own in settings}
    figures.spread(drawn, [axis.label for axis in axes], title, path)


def _pictures(settings: Sequence[Setting], folder: Path) -> list[str]:
    """Copies of the pictures of each setting's first run, and Markdown that shows them once."""
    lines, seen = ["## Settings"], set[str]()
    for number, (name, flags, runs) in enumerate(settings, 1):
        lines.append(f"### {_escaped(name)}")
        seeds = ", ".join(str(run.config.seed) for run in runs)
        about = f"{runs[0].config.model} on {runs[0].config.dataset}, seeds {seeds}"
        lines.append(f"{about}{': ' if flags else ''}{_escaped(_written(flags))}")
        for file, caption in PICTURES.items():
            source = runs[0].folder / file
            if not source.exists():
                continue
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            target = folder / f"{number}_{file}"
            shutil.copyfile(source, target)
            lines.append(f"{caption} (seed {runs[0].config.seed}):")
            lines.append(f"![{caption}]({folder.name}/{target.name})")
    return lines


def _common(settings: Sequence[Setting]) -> list[str]:
    """A table of the flags that all runs share: the main ones, and those not at their defaults."""
    shared = set.intersection(*(set(resolved(own.runs[0].config).items()) for own in settings))
    values = dict(shared)
    usual = resolved(Config())
    lines = ["| flag | value |", "| --- | ---: |"]
    for field in dataclasses.fields(Config):
        name = field.name
        if name in values and name not in _FREE:
            if name in _MAIN or values[name] != usual.get(name, shown(field.default)):
                lines.append(f"| `{name}` | {_escaped(values[name])} |")
    return ["## Common to all", "\n".join(lines)]


def _unready(runs: Sequence[Found], never: Sequence[Path]) -> list[str]:
    """Runs that are not finished, named."""
    lines = [
        f"- {run.folder}: {run.rows[-1]['round']} of {run.config.rounds} rounds"
        for run in runs
        if not run.finished
    ]
    lines += [f"- {folder}: not evaluated yet" for folder in never]
    if not lines:
        return []
    text = "Not finished, and left out where others of their setting are:"
    return [text, _escaped("\n".join(lines))]


def write(paths: Sequence[Path], output: Path, title: str, target: float | None) -> list[Path]:
    """Writes `report.html`, one page with all pictures in it, and `report.md` beside `pictures/`.

    Args:
      paths: folders of runs.
      output: folder of the report, made if need be.
      title: of the report.
      target: test accuracy to compare at; default that of the runs, if they have the same.

    Returns:
      The page and the Markdown file.

    Raises:
      UserError: no runs, or no target that they share.
    """
    runs, never = find(paths)
    targets = {run.config.target_accuracy for run in runs} if target is None else {target}
    if len(targets) > 1:
        raise flag_error("target", None, f"one accuracy; runs have {sorted(targets)}")
    (chosen,) = targets
    settings = settings_of(runs)
    pictures = output / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise flag_error("output", output, f"a folder to write to ({error})") from error
    _curves(settings, title, pictures / "curves.png")
    lines = [
        f"# {_escaped(title)}",
        f"{sum(len(own.runs) for own in settings)} runs of {len(settings)} settings.",
        *_unready(runs, never),
        *_tables(settings, chosen),
        "## Curves",
        "Mean over seeds, the band from least to greatest.",
        "![Test accuracy against rounds, bytes, seconds and joules](pictures/curves.png)",
        *_common(settings),
        *_pictures(settings, pictures),
    ]
    text = "\n\n".join(lines) + "\n"
    write_atomically(output / "report.md", text)
    write_atomically(output / "report.html", page(text, title, output))
    return [output / "report.html", output / "report.md"]
