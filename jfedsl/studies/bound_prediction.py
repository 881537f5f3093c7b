"""The bounds that a study predicts from a pilot run, before any of its settings is trained."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jfedsl.config import Config
from jfedsl.errors import UserError, flag_error
from jfedsl.files.signed import parsed, signed, verified
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

PILOT = "pilot"  # folder of the pilot run
CONSTANTS = "pilot_constants.json"  # what was measured for every setting at the pilot's models
PREDICTED = "predicted.csv"
_NAMED, _TOTAL, _STEEPNESS = ("varied", "value"), "predicted", "gamma_beta"  # its columns


class PilotPlan(NamedTuple):
    """Which pilot is run.

    Attributes:
      rounds: of the pilot.
      seed: of the pilot; not one of the study.
    """

    rounds: int
    seed: int


def predict_all(base: Config, settings: Settings, plan: PilotPlan) -> dict[str, Prediction]:
    """Runs the pilot, predicts the bound of every setting, and writes `predicted.csv`.

    Called again after an interruption it goes on where it stopped.

    Args:
      base: the setting of the pilot; its `workdir` is the folder of the study.
      settings: of the study.
      plan: which pilot.

    Returns:
      By the name of a setting, its prediction.

    Raises:
      UserError: the study has the seed of the pilot, or a setting was trained without having been
        predicted, or was predicted from another pilot.
      TrainingError: the pilot diverged.
    """
    seeds = sorted({config.seed for runs in settings.runs.values() for config in runs})
    if plan.seed in seeds:
        allowed, study = "a seed that no run of the study has", ",".join(map(str, seeds))
        raise flag_error("pilot_seed", plan.seed, allowed, reason=f"--seeds={study}")
    path = Path(base.workdir, CONSTANTS)
    measured = _read(path, plan)
    keys = {name: _key(base, config) for name, config in settings.configs.items()}
    _refuse_trained(settings, [name for name, key in keys.items() if key not in measured])
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, plan, measured)
    pilot = run_pilot(pilot_config(base, *plan, path.parent / PILOT))
    result = {}
    for name, config in settings.configs.items():
        if keys[name] not in measured:
            measured[keys[name]] = _measured(pilot, config)
            _write(path, plan, measured)
        result[name] = predict(pilot, config, measured[keys[name]])
        if base.progress != "none":
            print(f"{name}: predicted bound {shown(result[name].total)}", flush=True)
    write_predictions(path.parent / PREDICTED, settings, result)
    return result


def _measured(pilot: Pilot, config: Config) -> list[Row]:
    rows = measure_setting(pilot, config)
    jax.clear_caches()  # the run of the setting loads its programs from --compilation_cache
    return rows


def _key(base: Config, config: Config) -> str:
    """What tells the constants of a setting from those of others: fields that the base lacks.

    The period is none of them: at the pilot's models all clients hold the same weights.
    """
    names = [field.name for field in dataclasses.fields(Config) if field.name != "aggregate_every"]
    values = {name: getattr(config, name) for name in names}
    return json.dumps({k: v for k, v in values.items() if v != getattr(base, k)}, sort_keys=True)


def _refuse_trained(settings: Settings, unpredicted: list[str]) -> None:
    """Refuses a folder in which a setting was trained that has no prediction."""
    for name in unpredicted:
        for config in settings.runs[name]:
            if Path(config.workdir).exists():
                allowed = "a new folder"
                reason = f"{config.workdir} was trained before its bound was predicted"
                raise flag_error("workdir", Path(config.workdir).parents[1], allowed, reason=reason)


def _read(path: Path, plan: PilotPlan) -> dict[str, list[Row]]:
    """By key, the measurements of settings so far."""
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = verified(parsed(path.read_text()))
        was, settings = PilotPlan(*content["pilot"]), content["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; put it back or choose a new --workdir") from error
    for field, then, now in zip(PilotPlan._fields, was, plan, strict=True):
        if then != now:
            reason = f"the predictions in {path.parent} are from such a pilot"
            raise flag_error(f"pilot_{field}", now, str(then), reason=reason)
    return dict(settings)


def _write(path: Path, plan: PilotPlan, measured: Mapping[str, list[Row]]) -> None:
    content = signed({"pilot": list(plan), "settings": measured})
    write_atomically(path, json.dumps(content) + "\n")


def write_predictions(path: Path, settings: Settings, predicted: Mapping[str, Prediction]) -> None:
    """Writes a row for each value that is varied, unless the file has these rows already.

    Args:
      path: of the file.
      settings: of the study.
      predicted: by the name of a setting, its prediction.
    """
    text = io.StringIO()
    terms = next(iter(predicted.values())).shares
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_NAMED, _TOTAL, *terms, _STEEPNESS])
    for varied, names in settings.names.items():
        for value, name in names.items():
            total, shares, steepness = predicted[name]
            numbers = [total, *shares.values(), steepness]
            writer.writerow([varied, value, *(f"{number:.6g}" for number in numbers)])
    # The time of the file is when the predictions were made, not when the study was resumed.
    if not path.exists() or path.read_text() != text.getvalue():
        write_atomically(path, text.getvalue())


def read_predictions(path: Path, settings: Settings) -> dict[str, Prediction]:
    """The predictions in a file of `write_predictions`, by the name of a setting.

    Raises:
      UserError: there is no such file, or it lacks a setting or a number.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; the bound was not predicted yet")
    with open(path, newline="") as file:
        rows = {tuple(row[name] for name in _NAMED): row for row in csv.DictReader(file)}
    try:
        return {
            name: _prediction(rows[varied, value])
            for varied, names in settings.names.items()
            for value, name in names.items()
        }
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} lacks predictions of this study: {error}") from None


def _prediction(row: Mapping[str, str]) -> Prediction:
    numbers = {name: float(text) for name, text in row.items() if name not in _NAMED}
    return Prediction(numbers.pop(_TOTAL), shares=numbers, steepness=numbers.pop(_STEEPNESS))
