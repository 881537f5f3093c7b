"""Settings compared over seeds: their runs, and a table and a figure of the outcomes."""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jfedsl.config import Config
from jfedsl.config.allowed import FROM_DATA
from jfedsl.config.canonical import period_of
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import TrainingError, UserError, conflict, flag_error
from jfedsl.files.program import other_program
from jfedsl.run.assemble.shares import counted
from jfedsl.run.finished import finished
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.metrics import METRICS, read
from jfedsl.run.storage.task_record import Row, TaskRecord, read_record
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.axes import MEGABYTES, ROUND, Axes, curves
from jfedsl.studies.claims import Claim
from jfedsl.studies.columns import Column
from jfedsl.studies.costs import with_costs
from jfedsl.studies.outcome import Outcome, metric_of, tasks_of
from jfedsl.studies.provenance import made_by
from jfedsl.studies.tables import contents

Changes = Mapping[str, Any]  # fields of a config and their new values
Figures = Mapping[str, Sequence[str]]  # by file name, the settings whose curves a figure has


RESULTS = "results.csv"  # table of a sweep
_LONGEST = 100  # characters of a folder's name


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Seeds from the entries of --seeds.

    Raises:
      UserError: no entries, a repeated one, or one that is not a whole number.
    """
    if (
        not texts
        or len(set(texts)) < len(texts)
        or not all(re.fullmatch("[0-9]{1,10}", text) for text in texts)
    ):
        raise flag_error("seeds", ",".join(texts), "whole numbers separated by commas, each once")
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


def compare(
    base: Config,
    settings: Mapping[str, Changes],
    seeds: Sequence[int],
    axes: Axes = (ROUND, MEGABYTES),
) -> list[Outcome]:
    """Trains every setting with every seed.

    Called again after an interruption it goes on where it stopped. A run that diverges is printed,
    and the others go on.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the study.
      settings: by name, what a setting changes in the base.
      seeds: of every setting.
      axes: axes of the curves.

    Raises:
      UserError: no folder, or an impossible setting.
    """
    configs = run_configs(base, settings, seeds)
    return [train_seeds(name, of_setting, axes) for name, of_setting in configs.items()]


def train_seeds(name: str, configs: Sequence[Config], axes: Axes) -> Outcome:
    """Trains the runs of one setting that are not finished yet.

    Args:
      name: of the setting.
      configs: of its runs, from `run_configs`.
      axes: axes of the curves.
    """
    summaries = [_trained(name, config) for config in configs]
    (task,) = tasks_of(summaries)  # seeds have the same
    rows: list[list[Row]] = []
    for n, (config, summary) in enumerate(zip(configs, summaries, strict=True)):
        rows.append(read(Path(config.workdir, METRICS), task) if summary else [])
        if summary:
            target, period = config.target_accuracy, period_of(config)
            summaries[n] = with_costs(summary, rows[-1], target, period, task)
    return Outcome(name, summaries, curves(rows, axes, task))


def _trained(name: str, config: Config) -> dict[str, Any] | None:
    """The summary of a run, which is trained unless it is finished; None if it diverged."""
    summary = finished(config)
    try:
        summary = summary or train_setting(config)
        result = tested(summary)
    except TrainingError as error:
        result = str(error)
    jax.clear_caches()  # programs that other runs share are in --compilation_cache
    if config.progress != "none":
        print(f"{name}, seed {config.seed}: {result}", flush=True)
    return summary


def tested(summary: Mapping[str, Any]) -> str:
    """The metric at the end of a run, such as "test accuracy 0.9000"."""
    task = read_record(summary)
    return f"{task.title} {summary[TaskRecord.final(task.tested)]:.4f}"


def report(
    base: Config,
    outcomes: Sequence[Outcome],
    columns: Mapping[str, Column],
    title: str,
    axes: Axes = (ROUND, MEGABYTES),
    figures: Figures | None = None,
    reference: str | None = None,
    claims: Sequence[Claim] = (),
) -> str:
    """Writes `table.md` and the figures into the study's folder; returns the tables.

    What made them follows the tables: command, commit and versions.

    Args:
      base: of the study; its `workdir` is the folder, and it has the formats of the figure.
      outcomes: of the settings, from `compare` with the same axes.
      columns: of the tables, by their titles.
      title: of the figures.
      axes: of each figure, one panel each.
      figures: the settings in each figure; None: all in one.
      reference: name of the setting that the others are compared with; None for the first.
      claims: about the settings, in a table of their own.
    """
    summaries = [summary for outcome in outcomes for summary in outcome.summaries]
    text = f"{contents(outcomes, columns, reference, claims)}\n\n{made_by(summaries)}"
    folder = Path(base.workdir)
    write_atomically(folder / "table.md", text + "\n")
    curves_of = {outcome.name: outcome.curves for outcome in outcomes}
    labels, metric = [axis.label for axis in axes], metric_of(outcomes)
    for name, members in (figures or {"accuracy": list(curves_of)}).items():
        chosen = {member: curves_of[member] for member in members if member in curves_of}
        save_each(spread(chosen, labels, title, metric), folder / name, base.figure_format)
    return text


def conduct(
    base: Config,
    settings: Mapping[str, Changes],
    columns: Mapping[str, Column],
    seeds: Sequence[int],
    axes: Axes = (ROUND, MEGABYTES),
    figures: Figures | None = None,
    reference: str | None = None,
    claims: Sequence[Claim] = (),
) -> None:
    """Trains all settings with all seeds, then writes and prints the tables; see `report`."""
    outcomes = compare(base, settings, seeds, axes)
    clients = counted(base).clients
    title = f"{model_title(base)} on {title_of(base.dataset)}, {clients} clients"
    print(f"\n{report(base, outcomes, columns, title, axes, figures, reference, claims)}")
