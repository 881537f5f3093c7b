"""A report of any set of runs: what they took to a target accuracy, their curves and pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jfedsl.config import Config, compressors, shown
from jfedsl.config.canonical import canonical, period_of
from jfedsl.errors import flag_error
from jfedsl.files.paths import Name, local
from jfedsl.run.plots import figures
from jfedsl.run.plots.page import escaped, page
from jfedsl.run.storage.metrics import STREAMS, summarise
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.collect import FREE, Found, Setting, find, settings_of, written
from jfedsl.studies.study import (
    ACCURACIES,
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

# What a reader asks first.
_MAIN = (
    "algorithm", "dataset", "model", "cut", "clients", "participants", "rounds", "local_steps",
    "batch_size", "aggregate_every", "partition", "dirichlet_alpha", "optimizer",
    "client_learning_rate", "server_learning_rate", "prune_kind", "prune_rate", *compressors.PLACES,
    "network",
)  # fmt: skip
FOLDER = "pictures"
PICTURES = {
    "labels.png": "Examples of each class that each client has",
    "timeline.png": "The last round on the simulated clock: who waits for whom",
    "masks.png": "What is pruned: how much of the masks stays, how much of each layer is kept",
}


def _table(settings: Sequence[Setting], columns: Mapping[str, Column], target: float) -> str:
    titles = ["setting", "seeds", *columns]
    lines = [f"| {' | '.join(titles)} |", "| --- " + "| ---: " * (len(titles) - 1) + "|"]
    for name, _, runs in settings:
        summaries = [summarise(run.rows, target, period_of(run.config)) for run in runs]
        cells = [mean([column(s) for s in summaries]) for column in columns.values()]
        lines.append(f"| {escaped(name)} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tables(settings: Sequence[Setting], target: float) -> list[str]:
    reached: dict[str, Column] = {
        **ACCURACIES,
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
        f"## To accuracy {target:g}, as deployed",
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


def _pictures(settings: Sequence[Setting]) -> tuple[list[str], dict[str, bytes]]:
    """Markdown that shows the pictures of each setting's first run once, and they by address."""
    lines, pictures = ["## Settings"], dict[str, bytes]()
    for number, (name, flags, runs) in enumerate(settings, 1):
        config = runs[0].config
        lines.append(f"### {escaped(name)}")
        seeds = ", ".join(str(run.config.seed) for run in runs)
        about = f"{config.model} on {config.dataset}, seeds {seeds}"
        lines.append(escaped(f"{about}{': ' if flags else ''}{written(flags)}"))
        for file, caption in PICTURES.items():
            picture = _png(runs[0].folder / file)
            if picture is None or picture in pictures.values():
                continue
            address = f"{FOLDER}/{number}_{file}"
            pictures[address] = picture
            lines.append(f"{caption} (seed {config.seed}):")
            lines.append(f"![{caption}]({address})")
    return lines, pictures


def _png(path: Path) -> bytes | None:
    """A picture, if that is what lies there: nothing else gets into a report."""
    data = path.read_bytes() if path.is_file() else b""
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def _common(settings: Sequence[Setting]) -> list[str]:
    """A table of the flags that all runs share: the main ones, and those not at their defaults."""
    shared = set.intersection(*(set(canonical(own.runs[0].config).items()) for own in settings))
    values = dict(shared)
    usual = canonical(Config())
    lines = ["| flag | value |", "| --- | ---: |"]
    for field in dataclasses.fields(Config):
        name = field.name
        if name in values and name not in FREE:
            if name in _MAIN or values[name] != usual.get(name, shown(field.default)):
                lines.append(f"| `{name}` | {escaped(values[name])} |")
    return ["## Common to all", "\n".join(lines)]


def _unready(runs: Sequence[Found], never: Sequence[Path]) -> list[str]:
    """Runs that are not finished, named."""
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


def write(paths: Sequence[Name], output: Name, title: str, target: float | None) -> list[Path]:
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
    runs, never = find([local("folder", path) for path in paths])
    output = local("output", output)
    targets = {run.config.target_accuracy for run in runs} if target is None else {target}
    if len(targets) > 1:
        reason = f"runs have the targets {', '.join(map(str, sorted(targets)))}"
        raise flag_error("target", None, "one accuracy", reason=reason)
    (chosen,) = targets
    settings = settings_of(runs)
    own, pictures = _pictures(settings)
    try:
        (output / FOLDER).mkdir(parents=True, exist_ok=True)
        for address, picture in pictures.items():
            (output / address).write_bytes(picture)
    except OSError as error:
        raise flag_error("output", output, "a writable folder", reason=str(error)) from error
    drawn = f"{FOLDER}/curves.png"
    _curves(settings, title, output / drawn)
    pictures[drawn] = (output / drawn).read_bytes()
    lines = [
        f"# {escaped(title)}",
        f"{sum(len(own.runs) for own in settings)} runs of {len(settings)} settings.",
        *_unready(runs, never),
        *_tables(settings, chosen),
        "## Curves",
        "Mean over seeds, the band from least to greatest.",
        f"![Test accuracy against rounds, bytes, seconds and joules]({drawn})",
        *_common(settings),
        *own,
    ]
    text = "\n\n".join(lines) + "\n"
    write_atomically(output / "report.md", text)
    write_atomically(output / "report.html", page(text, title, pictures))
    return [output / "report.html", output / "report.md"]
