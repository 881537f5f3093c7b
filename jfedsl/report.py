"""A report of any set of runs: what they took to a target accuracy, their curves and pictures."""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfedsl.config import Config, shown
from jfedsl.errors import UserError, flag_error
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
    curve,
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


class Setting(NamedTuple):
    """Runs that differ in their seeds alone, with what tells them from other settings."""

    name: str
    runs: list[Found]


def find(paths: Sequence[Path]) -> list[Found]:
    """The runs in folders, each a run's own or one with runs somewhere below.

    Raises:
      UserError: a folder without a run, or with one that cannot be read.
    """
    found: dict[Path, Found] = {}
    for path in paths:
        configs = sorted(path.rglob(CONFIG)) if path.is_dir() else []
        for folder in (config.parent for config in configs):
            config, rows = read_config(folder), _rows(folder / "metrics.csv")
            if config is not None and any(row["test_accuracy"] is not None for row in rows):
                found[folder.resolve()] = Found(folder, config, rows)
        if not any(folder.resolve() in found for folder in (c.parent for c in configs)):
            raise UserError(f"{path}: allowed is a folder of runs that have been evaluated once")
    return list(found.values())


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
    """
    names = [f.name for f in dataclasses.fields(Config) if f.name not in _FREE]

    def key(run: Found) -> tuple[Any, ...]:
        values = {name: getattr(run.config, name) for name in names}
        return tuple({**values, "prune_kind": run.config.pruning}.values())

    groups: dict[tuple[Any, ...], list[Found]] = {}
    for run in runs:
        own = groups.setdefault(key(run), [])
        if run.config.seed not in [other.config.seed for other in own]:
            own.append(run)  # the same run elsewhere is no other seed
    differ = [i for i in range(len(names)) if len({k[i] for k in groups}) > 1]

    def name(values: tuple[Any, ...]) -> str:
        pairs = [(names[i], values[i]) for i in differ if values[i] is not None]
        return ", ".join(f"{flag}={shown(value)}" for flag, value in pairs) or "default"

    folders = [_folder_of(members) for members in groups.values()]
    if None not in folders and len(set(folders)) == len(folders):
        return [Setting(str(f), runs) for f, runs in zip(folders, groups.values(), strict=True)]
    return [Setting(name(values), members) for values, members in groups.items()]


def _folder_of(runs: Sequence[Found]) -> str | None:
    """What a study or sweep called the setting of these runs, if one did."""
    names = {run.folder.resolve().parent.name for run in runs}
    own = all(re.fullmatch(r"seed_\d+", run.folder.resolve().name) for run in runs)
    return names.pop() if own and len(names) == 1 else None


def _table(settings: Sequence[Setting], columns: Mapping[str, Column], target: float) -> str:
    titles = ["setting", "seeds", *columns]
    lines = [f"| {' | '.join(titles)} |", "| --- " + "| ---: " * (len(titles) - 1) + "|"]
    for name, runs in settings:
        summaries = [summarise(run.rows, target) for run in runs]
        cells = [mean([column(s) for s in summaries], spread=True) for column in columns.values()]
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
    simulated = all("energy_joules" in run.rows[0] for _, runs in settings for run in runs)
    axes = (ROUND, MEGABYTES, SECONDS, JOULES) if simulated else (ROUND, MEGABYTES)
    drawn: dict[str, list[figures.Curve]] = {}
    for name, runs in settings:
        every = [curve(run.rows, axes) for run in runs]
        # Runs may be going on, or have been prolonged.
        shared = set.intersection(*({point[0] for point in points} for points in every))
        drawn[name] = [[point for point in points if point[0] in shared] for points in every]
    drawn = {name: curves for name, curves in drawn.items() if curves[0]}
    figures.spread(drawn, [axis.label for axis in axes], title, path)


def _pictures(settings: Sequence[Setting], folder: Path) -> list[str]:
    """Copies of the pictures of each setting's first run, and Markdown that shows them once."""
    lines, seen = ["## Settings"], set[str]()
    for number, (name, runs) in enumerate(settings, 1):
        lines.append(f"### {_escaped(name)}")
        seeds = ", ".join(str(run.config.seed) for run in runs)
        lines.append(f"{runs[0].config.model} on {runs[0].config.dataset}, seeds {seeds}")
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
    """A table of the flags that all runs share and that are not at their defaults."""
    configs = [run.config for _, runs in settings for run in runs]
    lines = ["## Common to all", "| flag | value |", "| --- | ---: |"]
    for field in dataclasses.fields(Config):
        values = {getattr(config, field.name) for config in configs}
        if len(values) == 1 and field.name not in _FREE and values != {field.default}:
            lines.append(f"| `{field.name}` | {_escaped(shown(values.pop()))} |")
    return [lines[0], "\n".join(lines[1:])] if len(lines) > 3 else []


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
    runs = find(paths)
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
        f"{sum(len(own) for _, own in settings)} runs of {len(settings)} settings.",
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
