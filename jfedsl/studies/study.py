"""Settings compared over seeds: runs in folders of their own, a table and a picture."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.errors import TrainingError, UserError, conflict, flag_error
from jfedsl.run.finished import finished
from jfedsl.run.plots import figures
from jfedsl.run.plots.page import escaped
from jfedsl.run.storage.metrics import Row, deployed_accuracy, read
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.run.training import train_setting

Changes = Mapping[str, Any]
# A number of a summary, as in summary.json, if the run came to it.
Column = Callable[[dict[str, Any]], float | None]


class Axis(NamedTuple):
    """What accuracy is drawn against: a label, and a value from the rows of a run so far."""

    label: str
    value: Callable[[Sequence[Row]], float]


ROUND = Axis("round", lambda rows: rows[-1]["round"])
MEGABYTES = Axis("megabytes sent, all streams", lambda rows: rows[-1]["cumulative_bytes"] / 1e6)
SECONDS = Axis("simulated seconds", lambda rows: rows[-1]["cumulative_simulated_seconds"])
JOULES = Axis("joules of all devices", lambda rows: sum(row["energy_joules"] for row in rows))
Axes = Sequence[Axis]
RESULTS = "results.csv"  # of a sweep
_LONGEST = 100  # name of a folder


class Outcome(NamedTuple):
    """What the runs of one setting came to, one entry a seed.

    Attributes:
      name: of the setting.
      summaries: as in summary.json; None where training failed.
      curves: values along the axes, then test accuracy, at the evaluations that all runs have;
        empty where training failed.
    """

    name: str
    summaries: list[dict[str, Any] | None]
    curves: list[figures.Curve]


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Seeds from a flag's entries.

    Raises:
      UserError: none, one twice, or something else.
    """
    if (
        not texts
        or len(set(texts)) < len(texts)
        or not all(re.fullmatch("[0-9]{1,10}", text) for text in texts)
    ):
        raise flag_error("seeds", ",".join(texts), "whole numbers separated by commas, each once")
    return [int(text) for text in texts]


def runs(
    base: Config, settings: Mapping[str, Changes], seeds: Sequence[int]
) -> dict[str, list[Config]]:
    """The runs of every setting, one a seed, each in a folder of its own.

    Args:
      base: of all runs; its `workdir` is the folder of the study, one of a run each within.
      settings: what each changes, by its name.
      seeds: of the runs.

    Raises:
      UserError: no folder, settings that cannot be, or two that would share a folder.
    """
    if not base.workdir:
        raise flag_error("workdir", "", "a folder for the study")
    if base.coordinator:
        reason = "experiments/sweep.py divides the runs among processes by --shard"
        raise conflict("coordinator", base.coordinator, "a study of many runs", reason)
    if base.seed != Config.seed:
        raise UserError(f"--seed={base.seed} is for one run; set --seeds={base.seed}")

    def one(name: str, changes: Changes, seed: int) -> Config:
        folder = Path(base.workdir) / folder_name(name) / f"seed_{seed}"
        return dataclasses.replace(base, **changes, seed=seed, workdir=str(folder))

    found = {
        name: [one(name, changes, seed) for seed in seeds] for name, changes in settings.items()
    }
    folders = [config.workdir for configs in found.values() for config in configs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"two runs of the study would share {twice}; name settings and seeds apart")
    return found


def folder_name(name: str) -> str:
    """A setting's name as that of a folder: short, and of characters that no shell minds."""
    plain = re.sub(r"[^\w.=-]+", "_", name).strip("_.") or "setting"
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}_{digest}"


def compare(
    base: Config,
    settings: Mapping[str, Changes],
    seeds: Sequence[int],
    axes: Axes = (ROUND, MEGABYTES),
) -> list[Outcome]:
    """Trains every setting with every seed; the same call again goes on where it was.

    A run that diverges is named, and the others go on.

    Args:
      base: as in `runs`.
      settings: likewise.
      seeds: likewise.
      axes: that accuracy is followed along.

    Raises:
      UserError: no folder, or settings that cannot work.
    """
    planned = runs(base, settings, seeds)
    return [outcome_of(name, configs, axes) for name, configs in planned.items()]


def outcome_of(name: str, configs: Sequence[Config], axes: Axes) -> Outcome:
    """Trains the runs of one setting, those that are not finished.

    Args:
      name: of the setting.
      configs: of its runs, as from `runs`.
      axes: that accuracy is followed along.
    """
    summaries = [_trained(name, config) for config in configs]
    rows = [
        read(Path(config.workdir, "metrics.csv")) if summary else []
        for config, summary in zip(configs, summaries, strict=True)
    ]
    return Outcome(name, summaries, curves(rows, axes))


def _trained(name: str, config: Config) -> dict[str, Any] | None:
    """The summary of a run, trained if need be; None if it diverged."""
    summary = finished(config)
    try:
        summary = summary or train_setting(config)
        result = f"test accuracy {summary['final_accuracy']:.4f}"
    except TrainingError as error:
        result = str(error)
    jax.clear_caches()  # what other runs can use is in --compilation_cache
    if config.progress != "none":
        print(f"{name}, seed {config.seed}: {result}", flush=True)
    return summary


def curves(runs: Sequence[Sequence[Row]], axes: Axes) -> list[figures.Curve]:
    """Values along the axes, then accuracy as deployed, of each run, at evaluations that all have.

    Args:
      runs: rows of metrics.csv; none of a run that has no curve.
      axes: what to take from the rows up to an evaluation.
    """
    found = []
    for rows in runs:
        ends = [i + 1 for i, row in enumerate(rows) if row["test_accuracy"] is not None]
        found.append({rows[end - 1]["round"]: rows[:end] for end in ends})
    shared = set.intersection(*(set(run) for run in found if run)) if any(found) else set()
    return [
        [
            (*(axis.value(rows) for axis in axes), deployed_accuracy(rows[-1]))
            for number, rows in run.items()
            if number in shared
        ]
        for run in found
    ]


ACCURACIES: dict[str, Column] = {
    "test accuracy": lambda s: s["final_accuracy"],
    "deployed": lambda s: s.get("final_accuracy_deployed"),
}


def megabytes(*streams: str) -> Column:
    """A column of the megabytes sent on some streams."""
    return lambda summary: sum(summary["bytes"][stream] for stream in streams) / 1e6


def simulated(name: str) -> Column:
    """A column of the simulated network's totals."""
    return lambda summary: summary["simulated"] and summary["simulated"][name]


def megabytes_to_target(summary: dict[str, Any]) -> float | None:
    """A column of the megabytes that a run sent until it reached the target accuracy."""
    sent: int | None = summary["bytes_to_target"]
    return None if sent is None else sent / 1e6


def table(outcomes: Sequence[Outcome], columns: Mapping[str, Column]) -> str:
    """Accuracy of settings and columns, each as the mean (least to greatest), as Markdown.

    `deployed` is the accuracy with what the compressors do to the activation at inference.
    """
    lines = [
        " | ".join(["| setting", *ACCURACIES, *columns]) + " |",
        "| --- " * (1 + len(ACCURACIES) + len(columns)) + "|",
    ]
    for name, summaries, _ in outcomes:
        every = [*ACCURACIES.values(), *columns.values()]
        cells = [mean([column(s) if s else None for s in summaries]) for column in every]
        lines.append(" | ".join([f"| {escaped(name)}", *cells]) + " |")
    return "\n".join(lines)


def mean(values: Sequence[float | None]) -> str:
    """The mean of what is known, least to greatest, and of how many values, if not of all.

    >>> mean([1.5, 2.5, None]), mean([3, 3]), mean([None])
    ('2 (1.5 to 2.5, 2 of 3)', '3', '-')

    Args:
      values: one a seed, None where a run came to none.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    notes, low, high = [], _number(min(known)), _number(max(known))
    if low != high:
        notes.append(f"{low} to {high}")
    if len(known) < len(values):
        notes.append(f"{len(known)} of {len(values)}")
    return _number(float(np.mean(known))) + (f" ({', '.join(notes)})" if notes else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def report(
    base: Config,
    outcomes: Sequence[Outcome],
    columns: Mapping[str, Column],
    title: str,
    axes: Axes = (ROUND, MEGABYTES),
) -> str:
    """Writes `table.md` and `accuracy.png` into the folder of the study; returns the table."""
    folder, text = Path(base.workdir), table(outcomes, columns)
    write_atomically(folder / "table.md", text + "\n")
    drawn = {name: runs for name, _, runs in outcomes}
    figures.spread(drawn, [axis.label for axis in axes], title, folder / "accuracy.png")
    return text


def conduct(
    base: Config,
    settings: Mapping[str, Changes],
    columns: Mapping[str, Column],
    seeds: Sequence[int],
    axes: Axes = (ROUND, MEGABYTES),
) -> None:
    """Trains all settings with all seeds, then writes and prints the report; see `compare`."""
    outcomes = compare(base, settings, seeds, axes)
    title = f"{base.model} on {base.dataset}, {base.clients} clients"
    print(f"\n{report(base, outcomes, columns, title, axes)}")
