"""Settings compared over seeds: their runs, and tables and figures of the outcomes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jfedsl.config import Config
from jfedsl.config.canonical import period_of
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.run.assemble.shares import counted
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies import tuning
from jfedsl.studies.axes import AXES, MEGABYTES, ROUND, curves
from jfedsl.studies.claims import Claim
from jfedsl.studies.columns import (
    Column,
    median_round_seconds,
    megabytes,
    simulated,
    to_target,
)
from jfedsl.studies.configs import Changes, run_configs
from jfedsl.studies.outcome import Outcome, metric_of
from jfedsl.studies.provenance import made_by
from jfedsl.studies.records import Known, Record, costed, read_records, write_records
from jfedsl.studies.tables import contents
from jfedsl.studies.tuning import Tried, Tuning

Figures = Mapping[str, Sequence[str]]  # by file name, the settings whose curves a figure has

TABLE, RECORDS, TRIES = "table.md", "records.jsonl", "tries.jsonl"
_ON_LINKS: dict[str, Column] = {
    "rounds": lambda summary: summary["rounds"],
    "MB sent": megabytes(*STREAMS),
    "MB of models": megabytes("model_up", "model_down"),
    "rounds to target": to_target("rounds"),
    "MB to target": to_target("bytes", 1e6),
}
_ON_DEVICES: dict[str, Column] = {
    "MFLOPs of a client, an example": lambda summary: summary["client_flops"]["pruned"] / 1e6,
}
_ON_NETWORK: dict[str, Column] = {
    "seconds": simulated("seconds"),
    "median s a round": median_round_seconds,
    "device joules": simulated("energy_joules"),
    "seconds to target": to_target("seconds"),
    "device joules to target": to_target("joules"),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study compares.

    Attributes:
      base: the config that all settings change; its `workdir` is the folder of the runs.
      settings: by name, what a setting changes in the base.
      seeds: of every setting.
      reference: name of the setting that the others are compared with; empty for the first.
      figures: the settings in each figure; None for one figure of all, `accuracy`.
      tuning: how learning rates are chosen; None to take them as they are.
      claims: about the settings, tested on the paired seeds.
    """

    base: Config
    settings: Mapping[str, Changes]
    seeds: Sequence[int]
    reference: str = ""
    figures: Figures | None = None
    tuning: Tuning | None = None
    claims: Sequence[Claim] = ()

    @property
    def tuned(self) -> list[str]:
        """The settings whose learning rates are chosen."""
        tuning = self.tuning
        return [name for name in self.settings if tuning and name not in tuning.follow]

    def leader(self, name: str) -> str:
        """The setting whose factor of learning rates a setting takes, often its own."""
        return self.tuning.follow.get(name, name) if self.tuning else name


class Result(NamedTuple):
    """What the runs of a study gave.

    Attributes:
      records: of the runs, by setting, one for each seed.
      tries: of learning rates, by setting; none without tuning.
    """

    records: dict[str, list[Record]]
    tries: dict[str, list[Tried]]

    def outcomes(self, study: Study) -> list[Outcome]:
        """The outcomes of the settings of the study, with costs to its target."""
        return [outcome_of(study, name, runs) for name, runs in self.records.items()]


def outcome_of(study: Study, name: str, runs: Sequence[Record]) -> Outcome:
    """The outcome of a setting from the records of its runs."""
    config = dataclasses.replace(study.base, **study.settings[name])
    target, period = config.target_accuracy, period_of(config)
    summaries = [costed(record, target, period) for record in runs]
    return Outcome(name, summaries, [record.points for record in runs])


def columns_of(base: Config) -> dict[str, Column]:
    """Costs in the tables of a study, by their titles; those of a network only with one."""
    on_network = {} if base.network == "none" else _ON_NETWORK
    return {**_ON_LINKS, **_ON_DEVICES, **on_network}


def read_known(folder: Path, trains: bool = True) -> Known:
    """The records that a study has written into the folder of its results.

    Args:
      folder: of the results.
      trains: whether other runs are trained.
    """
    return Known([*read_records(folder / RECORDS), *read_records(folder / TRIES)], trains)


def check(study: Study) -> None:
    """Refuses an impossible study before anything is trained.

    Raises:
      UserError: no folder, an impossible setting, or a wrong tuning.
    """
    run_configs(study.base, study.settings, study.seeds)
    if study.tuning:
        tuning.check(study.base, study.seeds, study.tuning)


def tune(study: Study, known: Known, names: Sequence[str] | None = None) -> dict[str, list[Tried]]:
    """The tries of learning rates, which are trained unless they are finished or known.

    Args:
      study: the study.
      known: where records come from.
      names: of tuned settings; None for all.
    """
    if study.tuning is None:
        return {}
    return {
        name: tuning.tune(study.base, name, study.settings[name], study.tuning, known)
        for name in (study.tuned if names is None else names)
    }


def train(
    study: Study,
    tries: Mapping[str, Sequence[Tried]],
    known: Known,
    names: Sequence[str] | None = None,
) -> dict[str, list[Record]]:
    """The records of all runs, which are trained unless they are finished or known.

    A run that diverges is printed, and the others go on. Called again after an interruption it goes
    on where it stopped.

    Args:
      study: the study.
      tries: of learning rates, from `tune`.
      known: where records come from.
      names: of settings; None for all.
    """
    settings = with_rates(study, tries, study.settings if names is None else names)
    configs = run_configs(study.base, settings, study.seeds)
    return {
        name: [known.record(name, config) for config in of_setting]
        for name, of_setting in configs.items()
    }


def with_rates(
    study: Study, tries: Mapping[str, Sequence[Tried]], names: Iterable[str]
) -> dict[str, Changes]:
    """Some settings, with the learning rates that were chosen for them.

    Args:
      study: the study.
      tries: of learning rates, of these settings and of those that they follow.
      names: of the settings.
    """
    if study.tuning is None:
        return {name: study.settings[name] for name in names}
    exponents = {name: tuning.chosen(of_setting).exponent for name, of_setting in tries.items()}
    return {
        name: tuning.with_rates(study.base, study.settings[name], exponents[study.leader(name)])
        for name in names
    }


def write(study: Study, result: Result, folder: Path) -> str:
    """Writes records, `table.md` and the figures of a study into a folder; returns the tables.

    What made them follows the tables: command, commit and versions.
    """
    records = [record for of_setting in result.records.values() for record in of_setting]
    tries = [r for of in result.tries.values() for one in of for r in one.records]
    write_records(folder / RECORDS, records)
    if tries:
        write_records(folder / TRIES, tries)
    outcomes = result.outcomes(study)
    parts = [contents(outcomes, columns_of(study.base), study.reference or None, study.claims)]
    if study.tuning:
        seeds = ", ".join(map(str, study.tuning.seeds))
        caption = f"Learning rates, chosen on the validation set (seeds of these runs: {seeds}):"
        parts += [caption, tuning.table(result.tries)]
    parts.append(made_by(record.summary for record in records))
    text = "\n\n".join(parts)
    write_atomically(folder / TABLE, text + "\n")
    draw(study, outcomes, folder)
    return text


def draw(study: Study, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draws a study's figures: the metric against rounds, bytes and, with a network, more costs."""
    base = study.base
    axes = AXES if base.network != "none" else (ROUND, MEGABYTES)
    clients = counted(base).clients
    title = f"{model_title(base)} on {title_of(base.dataset)}, {clients} clients"
    curves_of = {outcome.name: curves(outcome.runs, axes) for outcome in outcomes}
    labels, metric = [axis.label for axis in axes], metric_of(outcomes)
    for name, members in (study.figures or {"accuracy": list(curves_of)}).items():
        chosen = {member: curves_of[member] for member in members}
        save_each(spread(chosen, labels, title, metric), folder / name, base.figure_format)


def conduct(study: Study, folder: Path | None = None) -> None:
    """Trains all settings with all seeds, then writes and prints the tables; see `write`.

    Args:
      study: the study.
      folder: of its results; None for that of its runs.

    Raises:
      UserError: an impossible study; nothing was trained.
    """
    check(study)
    folder = folder or Path(study.base.workdir)
    known = read_known(folder)
    tries = tune(study, known)
    result = Result(train(study, tries, known), tries)
    print(f"\n{write(study, result, folder)}")
