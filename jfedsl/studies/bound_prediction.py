"""The bounds that a study predicts from a pilot run, before any of its settings is trained."""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jfedsl.config import Config
from jfedsl.errors import UserError, flag_error
from jfedsl.run.convergence import Row, shown
from jfedsl.run.pilot import (
    Pilot,
    Prediction,
    measure_setting,
    pilot_config,
    predict,
    run_pilot,
)
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.bound_settings import Settings
from jfedsl.studies.records import Known, flags_of

PILOT = "pilot"  # folder of the pilot run
PREDICTIONS = "predictions.jsonl"  # a `Predicted` a line
PREDICTED = "predicted.csv"  # its bounds, by what is varied


class PilotPlan(NamedTuple):
    """Which pilot is run.

    Attributes:
      rounds: of the pilot.
      seed: of the pilot; not one of the study.
    """

    rounds: int
    seed: int

    def config(self, base: Config) -> Config:
        """The config of the pilot of a study; its folder is in that of the study."""
        return pilot_config(base, *self, Path(base.workdir, PILOT))


class Predicted(NamedTuple):
    """What was predicted for a setting.

    Attributes:
      setting: its name.
      checksum: of the flags of the pilot and of the setting.
      constants: of the setting, measured at the pilot's models.
      prediction: the bound from them.
    """

    setting: str
    checksum: str
    constants: list[Row]
    prediction: Prediction


def predict_all(
    base: Config, settings: Settings, plan: PilotPlan, known: Known, earlier: Sequence[Path] = ()
) -> dict[str, Predicted]:
    """Predicts the bound of every setting of a study that has no prediction yet.

    Called again after an interruption it goes on where it stopped.

    Args:
      base: the setting of the pilot; its `workdir` is the folder of the study.
      settings: of the study.
      plan: which pilot.
      known: where records come from; a recorded run counts as trained.
      earlier: other folders that may have predictions, which count less than that of the study.

    Returns:
      By the name of a setting, what was predicted for it.

    Raises:
      UserError: the study has the seed of the pilot, a setting was trained that was not predicted
        from this pilot, or a file of predictions is damaged.
      TrainingError: the pilot diverged.
    """
    check_seed(settings, plan)
    folder = Path(base.workdir)
    found = _found(base, settings, plan, [*earlier, folder])
    missing = [name for name in settings.configs if name not in found]
    _refuse_trained(settings, missing, known)
    if missing:
        pilot = run_pilot(plan.config(base))
        for name in missing:
            found[name] = _predicted(pilot, settings, name, found)
            write_predictions(folder, found)
            if base.progress != "none":
                total = shown(found[name].prediction.total)
                print(f"{name}: predicted bound {total}", flush=True)
    return {name: found[name] for name in settings.configs}


def check_seed(settings: Settings, plan: PilotPlan) -> None:
    """Refuses a pilot whose seed a run of the study has."""
    seeds = sorted({config.seed for runs in settings.runs.values() for config in runs})
    if plan.seed in seeds:
        allowed, study = "a seed that no run of the study has", ",".join(map(str, seeds))
        raise flag_error("pilot_seed", plan.seed, allowed, reason=f"--seeds={study}")


def _predicted(
    pilot: Pilot, settings: Settings, name: str, found: Mapping[str, Predicted]
) -> Predicted:
    config = settings.configs[name]
    rows = _shared(settings, found, config) or _measured(pilot, config)
    return Predicted(name, _checksum(pilot.config, config), rows, predict(pilot, config, rows))


def _shared(settings: Settings, found: Mapping[str, Predicted], config: Config) -> list[Row] | None:
    """Constants of a setting that differs in its period alone: clients hold equal weights there."""
    for name, one in found.items():
        period = settings.configs[name].aggregate_every
        if dataclasses.replace(config, aggregate_every=period) == settings.configs[name]:
            return one.constants
    return None


def _measured(pilot: Pilot, config: Config) -> list[Row]:
    rows = measure_setting(pilot, config)
    jax.clear_caches()  # the run of the setting loads its programs from --compilation_cache
    return rows


def _refuse_trained(settings: Settings, unpredicted: Sequence[str], known: Known) -> None:
    """Refuses to predict settings that were trained already."""
    for name in unpredicted:
        for config in settings.runs[name]:
            if known.recorded(config):
                raise UserError(
                    f"{name!r}, seed {config.seed}, has a record but no prediction from this pilot;"
                    f" put {PREDICTIONS} back, or delete the records to train all anew"
                )
            folder = Path(config.workdir)
            if folder.exists():
                reason = f"{folder} was trained before its bound was predicted from this pilot"
                raise flag_error("workdir", folder.parents[1], "a new folder", reason=reason)


def read_predictions(
    base: Config, settings: Settings, plan: PilotPlan, folders: Iterable[Path]
) -> dict[str, Predicted]:
    """The predictions of a study, by the name of a setting.

    Args:
      base: the setting of the pilot.
      settings: of the study.
      plan: which pilot.
      folders: that may have predictions; of equal ones the last folder's counts.

    Raises:
      UserError: a setting has none, or a file of predictions is damaged.
    """
    found = _found(base, settings, plan, folders)
    for name in settings.configs:
        if name not in found:
            raise UserError(f"the bound of {name!r} was not predicted from this pilot yet")
    return {name: found[name] for name in settings.configs}


def _found(
    base: Config, settings: Settings, plan: PilotPlan, folders: Iterable[Path]
) -> dict[str, Predicted]:
    """By the name of a setting, what was predicted for such settings from such a pilot."""
    pilot = plan.config(base)
    lines = {one.checksum: one for folder in folders for one in _read(folder / PREDICTIONS)}
    sums = {name: _checksum(pilot, config) for name, config in settings.configs.items()}
    return {name: lines[key] for name, key in sums.items() if key in lines}


def _checksum(pilot: Config, config: Config) -> str:
    """Tells what was predicted, and from what, from other predictions; not by which build."""
    flags = flags_of(config)
    del flags["seed"]  # the pilot's is taken
    text = json.dumps([flags_of(pilot), flags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> list[Predicted]:
    """The lines of a file; none if there is no such file."""
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [Predicted(**{**row, "prediction": Prediction(**row["prediction"])}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; put it back or choose a new --workdir") from error


def write_predictions(folder: Path, predicted: Mapping[str, Predicted]) -> None:
    """Writes the predictions of a study's settings, a line of JSON each; other lines stay."""
    lines = {one.checksum: one for one in _read(folder / PREDICTIONS)}
    lines |= {one.checksum: one for one in predicted.values()}
    rows = [{**one._asdict(), "prediction": one.prediction._asdict()} for one in lines.values()]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PREDICTIONS, "".join(f"{json.dumps(row)}\n" for row in rows))


def write_table(folder: Path, settings: Settings, predicted: Mapping[str, Predicted]) -> None:
    """Writes `predicted.csv`: a row for each value that is varied, with the terms of its bound.

    A file that has these rows already keeps its time, which is when the predictions were made.
    """
    text = io.StringIO()
    terms = next(iter(predicted.values())).prediction.shares
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["varied", "value", "predicted", *terms, "gamma_beta"])
    for varied, names in settings.names.items():
        for value, name in names.items():
            total, shares, steepness = predicted[name].prediction
            numbers = [total, *shares.values(), steepness]
            writer.writerow([varied, value, *(f"{number:.6g}" for number in numbers)])
    path = folder / PREDICTED
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text.getvalue():
        write_atomically(path, text.getvalue())
