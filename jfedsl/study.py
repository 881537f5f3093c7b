"""Settings compared over seeds: runs in folders of their own, a table and a picture."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.errors import UserError, flag_error
from jfedsl.runtime import figures
from jfedsl.runtime.metrics import Row, read
from jfedsl.runtime.workdir import differences, read_config, write_atomically
from jfedsl.training import train

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


class Outcome(NamedTuple):
    """What the runs of one setting came to, one entry a seed.

    Attributes:
      name: of the setting.
      summaries: as in summary.json.
      curves: values along the axes, then test accuracy, at the evaluations of each run.
    """

    name: str
    summaries: list[dict[str, Any]]
    curves: list[figures.Curve]


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Seeds from a flag's entries.

    Raises:
      UserError: none, one twice, or something else.
    """
    if not texts or len(set(texts)) < len(texts) or not all(text.isdigit() for text in texts):
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
    if base.seed != Config.seed:
        raise flag_error("seed", base.seed, "--seeds, for several runs")

    def one(name: str, changes: Changes, seed: int) -> Config:
        folder = Path(base.workdir) / re.sub(r"\W+", "_", name) / f"seed_{seed}"
        return dataclasses.replace(base, **changes, seed=seed, workdir=str(folder))

    found = {
        name: [one(name, changes, seed) for seed in seeds] for name, changes in settings.items()
    }
    folders = [config.workdir for configs in found.values() for config in configs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"two runs of the study would share {twice}; name settings and seeds apart")
    return found


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that has been trained to its end with these settings, or None."""
    summary, old = Path(config.workdir) / "summary.json", read_config(Path(config.workdir))
    if not summary.exists() or old is None or differences(old, config):
        return None
    if (old.rounds, old.eval_every) != (config.rounds, config.eval_every):
        return None
    found: dict[str, Any] = json.loads(summary.read_text())
    same = found["target_accuracy"] == config.target_accuracy
    return found if same and found["rounds"] == config.rounds else None


def compare(
    base: Config,
    settings: Mapping[str, Changes],
    seeds: Sequence[int],
    axes: Axes = (ROUND, MEGABYTES),
) -> list[Outcome]:
    """Trains every setting with every seed; the same call again goes on where it was.

    Args:
      base: as in `runs`.
      settings: likewise.
      seeds: likewise.
      axes: that accuracy is followed along.

    Raises:
      UserError: no folder, or settings that cannot work.
    """
    outcomes = []
    for name, configs in runs(base, settings, seeds).items():
        summaries: list[dict[str, Any]] = []
        curves: list[figures.Curve] = []
        for config in configs:
            summaries.append(finished(config) or train(config))
            jax.clear_caches()  # programs are on the disk
            curves.append(curve(read(Path(config.workdir, "metrics.csv")), axes))
            final = summaries[-1]["final_accuracy"]
            if base.progress != "none":
                print(f"{name}, seed {config.seed}: test accuracy {final:.4f}", flush=True)
        outcomes.append(Outcome(name, summaries, curves))
    return outcomes


def curve(rows: Sequence[Row], axes: Axes) -> figures.Curve:
    """Values along the axes, then test accuracy, at the evaluations of a run."""
    ends = [i + 1 for i, row in enumerate(rows) if row["test_accuracy"] is not None]
    return [
        (*(axis.value(rows[:end]) for axis in axes), rows[end - 1]["test_accuracy"]) for end in ends
    ]


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
    """Accuracy of settings (mean, least to greatest) and means of columns, as Markdown."""
    lines = [
        " | ".join(["| setting", "test accuracy", *columns]) + " |",
        "| --- " * (2 + len(columns)) + "|",
    ]
    for name, summaries, _ in outcomes:
        final = [s["final_accuracy"] for s in summaries]
        means = [mean([column(s) for s in summaries]) for column in columns.values()]
        accuracy = f"{np.mean(final):.4f} ({min(final):.4f} to {max(final):.4f})"
        lines.append(" | ".join([f"| {name}", accuracy, *means]) + " |")
    return "\n".join(lines)


def mean(values: Sequence[float | None], spread: bool = False) -> str:
    """The mean of what is known, and of how many values that is, if not of all.

    >>> mean([1.5, 2.5, None]), mean([1.5, 2.5], spread=True), mean([None])
    ('2 (2 of 3)', '2 (1.5 to 2.5)', '-')

    Args:
      values: one a seed, None where a run came to none.
      spread: add the least and the greatest, where they differ.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    notes = [f"{_number(min(known))} to {_number(max(known))}"] * (
        spread and min(known) < max(known)
    )
    notes += [f"{len(known)} of {len(values)}"] * (len(known) < len(values))
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
    curves = {name: runs for name, _, runs in outcomes}
    figures.spread(curves, [axis.label for axis in axes], title, folder / "accuracy.png")
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
