"""A report on any set of runs: tables of metric and costs, curves, and the runs' pictures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jfedsl.config import Config, shown
from jfedsl.config.algorithm_fields import STREAMS as STREAM_FLAGS
from jfedsl.config.allowed import OneOf
from jfedsl.config.canonical import canonical
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import UserError, flag_error
from jfedsl.files.paths import Name, local
from jfedsl.run.plots.page import escaped, page
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.task_record import TaskRecord, file_of
from jfedsl.run.storage.workdir import read_summary, write_atomically
from jfedsl.studies.axes import AXES, MEGABYTES, ROUND, curves, points
from jfedsl.studies.collect import (
    NOT_OF_SETTING,
    RecordedRun,
    Setting,
    find_runs,
    flag_text,
    settings_of,
)
from jfedsl.studies.key import cell, key_table, samples, short_names
from jfedsl.studies.provenance import made_by
from jfedsl.studies.report_tables import tables

# Flags that the report shows even at their defaults.
_MAIN = (
    "algorithm", "dataset", "model", "cut", "clients", "participants", "rounds", "local_steps",
    "batch_size", "aggregate_every", "partition", "dirichlet_alpha", "optimizer",
    "client_learning_rate", "server_learning_rate", "prune_kind", "prune_rate", *STREAM_FLAGS,
    "network",
)  # fmt: skip
FOLDER = "pictures"
PICTURES = {
    "labels": "Examples of each class that each client has",
    "timeline": "The last round on the simulated clock: who waits for whom",
    "masks": "What is pruned: how much of the masks stays, how much of each layer is kept",
    "confusion": "Which classes of examples are taken for which",
}
# What browsers show, the best first, and how such a file begins.
_SHOWN = {"svg": b"<?xml ", "png": b"\x89PNG\r\n\x1a\n"}


def comparison(settings: Sequence[Setting], names: Sequence[str], title: str) -> Figure:
    """The metric against rounds, bytes and, with a network in all runs, seconds, joules.

    Args:
      settings: to compare; their runs have one metric.
      names: of the settings in the legend.
      title: text over the picture.
    """
    task = settings[0].runs[0].task
    simulated = all("energy_joules" in run.rows[0] for s in settings for run in s.runs)
    axes = AXES if simulated else (ROUND, MEGABYTES)
    curves_of = {
        name: curves([points(run.rows, task) for run in setting.runs], axes)
        for name, setting in zip(names, settings, strict=True)
    }
    return spread(curves_of, [axis.label for axis in axes], title, task.title)


def _one_by_one(
    settings: Sequence[Setting], names: Sequence[str]
) -> tuple[list[str], dict[str, bytes]]:
    """The pictures of each setting's first run, without repetitions.

    Returns:
      Markdown lines that describe the settings with pictures and show them, and the pictures by the
      addresses that the lines have for them.
    """
    lines, pictures = list[str](), dict[str, bytes]()
    for number, (setting, short) in enumerate(zip(settings, names, strict=True), 1):
        shown = []
        for stem, caption in PICTURES.items():
            # One of the test set may be there too: it is for whoever asks for it.
            split = setting.runs[0].task.split if stem == "confusion" else "test"
            kind, picture = _picture(setting.runs[0].folder, file_of(stem, split))
            if picture and picture not in pictures.values():
                address = f"{FOLDER}/{number}_{stem}.{kind}"
                pictures[address] = picture
                shown += [f"{caption} (seed {setting.runs[0].config.seed}):"]
                shown += [f"![{caption}]({address})"]
        lines += [f"### {escaped(short)}", *_about(setting, short), *shown] if shown else []
    return ["## Setting by setting", *lines] if lines else [], pictures


def _about(setting: Setting, short: str) -> list[str]:
    """What a setting is: its name, if that says more than its flags, model, data, seeds, flags."""
    name, flags, runs = setting
    config, seeds = runs[0].config, ", ".join(str(run.config.seed) for run in runs)
    about = f"{model_title(config)} on {title_of(config.dataset)}, seeds {seeds}"
    told = name in (short, flag_text(flags))
    text = escaped(f"{about}{': ' if flags else ''}{flag_text(flags)}")
    return [text] if told else [escaped(name), text]


def _picture(folder: Path, stem: str) -> tuple[str, bytes]:
    """Kind and content of a picture of a run that browsers show; empty if there is none."""
    for kind, beginning in _SHOWN.items():
        path = folder / f"{stem}.{kind}"
        data = path.read_bytes() if path.is_file() else b""
        if data.startswith(beginning):
            return kind, data
    return "", b""


def _common(settings: Sequence[Setting]) -> list[str]:
    """A table of the flags that all settings share: the main ones and those not at defaults."""
    shared = set.intersection(*(set(canonical(s.runs[0].config).items()) for s in settings))
    values = dict(shared)
    defaults = canonical(Config())
    lines = ["| flag | value |", "| --- | ---: |"]
    for field in dataclasses.fields(Config):
        name = field.name
        if name in values and name not in NOT_OF_SETTING:
            if name in _MAIN or values[name] != defaults.get(name, shown(field.default)):
                lines.append(f"| `{name}` | {escaped(values[name])} |")
    return ["## Common to all", "\n".join(lines)]


def _unfinished(runs: Sequence[RecordedRun], never: Sequence[Path]) -> list[str]:
    """A list of the unfinished runs and of the folders of runs that were never evaluated."""
    lines = [
        f"- {escaped(str(run.folder))}: {run.rows[-1]['round']} of {run.config.rounds} rounds"
        for run in runs
        if not run.finished
    ]
    lines += [f"- {escaped(str(folder))}: not evaluated yet" for folder in never]
    if not lines:
        return []
    text = "Not finished, and left out where others of their setting are:"
    return [text, "\n".join(lines)]


def task_of(runs: Sequence[RecordedRun]) -> TaskRecord:
    """What all runs are judged by.

    Raises:
      UserError: they do not have one metric.
    """
    first = runs[0]
    for run in runs:
        if run.task != first.task:
            names = f"{first.folder} has {first.task.label}, {run.folder} {run.task.label}"
            raise UserError(f"the runs of a report must have one metric; {names}")
    return first.task


def _one_target(runs: Sequence[RecordedRun], task: TaskRecord, target: float | None) -> float:
    """The target to compare costs at.

    Raises:
      UserError: it is no value of the metric, or it is not given and the runs have several.
    """
    if task.metric == "accuracy" and target is not None and not 0 <= target <= 1:
        raise flag_error("target", target, "an accuracy in [0, 1]")
    targets = {run.config.target_accuracy for run in runs} if target is None else {target}
    if len(targets) > 1:
        reason = f"runs have the targets {', '.join(map(str, sorted(targets)))}"
        raise flag_error("target", None, "one number", reason=reason)
    return targets.pop()


def _reference(settings: Sequence[Setting], names: Sequence[str], name: str) -> int:
    """The number of the setting with this name, short or long; 0 without a name.

    Raises:
      UserError: no setting has it.
    """
    if not name:
        return 0
    for known in ([setting.name for setting in settings], names):
        if name in known:
            return list(known).index(name)
    known = [setting.name for setting in settings]
    raise flag_error("reference", name, OneOf(known).text, known)


def write(
    paths: Sequence[Name], output: Name, title: str, target: float | None,
    formats: Sequence[str] = ("png",), reference: str = "",
) -> list[Path]:  # fmt: skip
    """Writes `report.html`, one page with all pictures in it, and `report.md` beside `pictures/`.

    Args:
      paths: folders of runs, or folders with such folders at any depth.
      output: folder of the report, made if it does not exist.
      title: of the report.
      target: deployed metric to compare costs at; None for that of the runs.
      formats: of the curves in `pictures/`, beside SVG.
      reference: setting that the others are compared with, by its name; empty for the first.

    Returns:
      The page and the Markdown file.

    Raises:
      UserError: a folder without evaluated runs, runs with different metrics or targets, an unknown
        reference, or a folder that cannot be written.
    """
    runs, never = find_runs([local("folder", path) for path in paths])
    output, task = local("output", output), task_of(runs)
    one_target = _one_target(runs, task, target)
    settings = settings_of(runs)
    names = short_names([setting.name for setting in settings])
    compared = _reference(settings, names, reference)
    cells = [cell(number, name, FOLDER) for number, name in enumerate(names)]
    descriptions, pictures = _one_by_one(settings, names)
    pictures |= samples(len(settings), FOLDER)
    try:
        (output / FOLDER).mkdir(parents=True, exist_ok=True)
        for address, picture in pictures.items():
            (output / address).write_bytes(picture)
    except OSError as error:
        raise flag_error("output", output, "a writable folder", reason=str(error)) from error
    figure, stem = comparison(settings, names, ""), output / FOLDER / "curves"
    first, *_ = save_each(figure, stem, list(dict.fromkeys(["svg", *formats])))
    pictures[f"{FOLDER}/{first.name}"] = first.read_bytes()
    lines = [
        f"# {escaped(title)}",
        f"{sum(len(s.runs) for s in settings)} runs of {len(settings)} settings.",
        *_unfinished(runs, never),
        *(["## What differs", key_table(settings, names, cells)] if len(settings) > 1 else []),
        *tables(settings, cells, task, one_target, compared),
        "## Curves",
        "Mean over seeds, the band from least to greatest.",
        f"![{task.title.capitalize()} against rounds, bytes, seconds and joules]"
        f"({FOLDER}/{first.name})",
        *_common(settings),
        *descriptions,
        "## Made by",
        made_by(read_summary(run.folder) for setting in settings for run in setting.runs),
    ]
    text = "\n\n".join(lines) + "\n"
    write_atomically(output / "report.md", text)
    write_atomically(output / "report.html", page(text, title, pictures))
    return [output / "report.html", output / "report.md"]
