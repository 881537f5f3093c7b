"""The convergence bound against measurement: sweeps of one flag each, a table and a figure.

The bound is computed twice: predicted from a pilot before anything is trained, and from constants
measured in the runs themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfedsl.config import Config
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import UserError
from jfedsl.run.assemble.shares import counted
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.bound_outcome import Outcome
from jfedsl.studies.bound_prediction import (
    PILOT,
    PilotPlan,
    Predicted,
    check_seed,
    predict_all,
    read_predictions,
    write_predictions,
    write_table,
)
from jfedsl.studies.bound_settings import Settings, Sweeps, settings_of
from jfedsl.studies.bound_tables import table
from jfedsl.studies.provenance import made_by
from jfedsl.studies.records import Known, Record, write_records
from jfedsl.studies.study import RECORDS, TABLE, read_known
from jfedsl.theory.verdict import Verdict


class BoundStudy(NamedTuple):
    """A study of the bound.

    Attributes:
      base: the config that all settings change; its `workdir` is the folder of the runs.
      sweeps: what to vary.
      seeds: of every setting.
      plan: the pilot of the predictions.
    """

    base: Config
    sweeps: Sweeps
    seeds: Sequence[int]
    plan: PilotPlan

    @property
    def settings(self) -> Settings:
        """Its settings; see `settings_of`, also for errors."""
        return settings_of(self.base, self.sweeps, self.seeds)


class Result(NamedTuple):
    """What a study gave.

    Attributes:
      predicted: by the name of a setting, what was predicted for it.
      pilot: the record of the pilot.
      records: of the runs, by the name of a setting, one for each seed.
    """

    predicted: dict[str, Predicted]
    pilot: Record
    records: dict[str, list[Record]]

    def outcomes(self, settings: Settings) -> dict[str, dict[str, Outcome]]:
        """By the name of what is varied: by its values, the outcomes.

        Sweeps that share a setting share its outcome.
        """
        outcomes = {
            name: Outcome([_report(record) for record in runs], self.predicted[name].prediction)
            for name, runs in self.records.items()
        }
        return {
            varied: {value: outcomes[name] for value, name in names.items()}
            for varied, names in settings.names.items()
        }


def check(study: BoundStudy) -> None:
    """Refuses an impossible study before anything is trained.

    Raises:
      UserError: see `settings_of`, or the pilot has a seed of the study.
    """
    check_seed(study.settings, study.plan)


def train(study: BoundStudy, known: Known, earlier: Sequence[Path] = ()) -> Result:
    """Predicts the bound of all settings, and only then trains them.

    What is predicted, finished or known already is taken. Called again after an interruption it
    goes on where it stopped.

    Args:
      study: the study.
      known: where records come from.
      earlier: folders beside that of the study that may have predictions.

    Raises:
      UserError: see `predict_all` and `settings_of`, or a run has too few measurements.
      TrainingError: the pilot diverged, or a checkpoint cannot be written.
    """
    settings, folder = study.settings, Path(study.base.workdir)
    predicted = predict_all(study.base, settings, study.plan, known, earlier)
    write_table(folder, settings, predicted)
    return _result(study, settings, known, predicted)


def read(study: BoundStudy, known: Known, earlier: Sequence[Path] = ()) -> Result:
    """What a finished study gave.

    Args:
      study: the study.
      known: where records come from, which trains nothing.
      earlier: folders beside that of the study that may have predictions.

    Raises:
      UserError: a setting has no prediction, or a run is neither finished nor known.
    """
    settings, folders = study.settings, [*earlier, Path(study.base.workdir)]
    predicted = read_predictions(study.base, settings, study.plan, folders)
    return _result(study, settings, known, predicted)


def _result(
    study: BoundStudy, settings: Settings, known: Known, predicted: dict[str, Predicted]
) -> Result:
    records = {
        name: [_record(known, name, config) for config in runs]
        for name, runs in settings.runs.items()
    }
    return Result(predicted, known.record(PILOT, study.plan.config(study.base)), records)


def _record(known: Known, name: str, config: Config) -> Record:
    """The record of a run, of which the bound is known unless it diverged."""
    record = known.record(name, config)
    if record.summary is not None and record.summary["convergence"] is None:
        raise UserError(f"{name!r}, seed {config.seed}, has too few measurements of constants")
    return record


def _report(record: Record) -> dict[str, Any]:
    """The entry `convergence` of a run's summary."""
    if record.summary is None:
        return {"verdict": str(Verdict.DIVERGED)}
    report: dict[str, Any] = record.summary["convergence"]
    return report


def write(study: BoundStudy, result: Result, folder: Path) -> str:
    """Writes records, predictions, `table.md` and the figure into a folder; returns the tables.

    What made them follows the tables: command, commit and versions.
    """
    settings, base = study.settings, study.base
    outcomes = result.outcomes(settings)
    records = [result.pilot, *(record for runs in result.records.values() for record in runs)]
    write_records(folder / RECORDS, records)
    write_predictions(folder, result.predicted)
    write_table(folder, settings, result.predicted)
    text = f"{table(outcomes, study.plan)}\n\n{made_by(record.summary for record in records)}"
    write_atomically(folder / TABLE, text + "\n")
    panels = {
        varied: {value: _bar(outcome) for value, outcome in values.items()}
        for varied, values in outcomes.items()
    }
    clients = counted(base).clients
    title = (
        f"{model_title(base)} on {title_of(base.dataset)}, {clients} clients, {base.rounds} rounds"
    )
    save_each(bounds(panels, title), folder / "bound", base.figure_format)
    return text


def conduct(study: BoundStudy) -> None:
    """Predicts and trains, then writes and prints the tables; see `train`, also for errors."""
    folder = Path(study.base.workdir)
    result = train(study, read_known(folder))
    print(f"\n{write(study, result, folder)}")


def _bar(outcome: Outcome) -> Bar | None:
    """The bar of a setting in the figure; None if all its runs diverged."""
    measured = outcome.known("average")
    return Bar(outcome.mean_terms(), measured, outcome.predicted) if measured else None
