"""The bound of runs before they are trained, from a short pilot run.

Measured are the constants of every setting at two models of the pilot: the one before its first
round and the one after its last. Extrapolated is that they stay as large for the whole run.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.models.layers import Variables
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.constants_recorder import MEASURED, as_row, read
from jfedsl.run.convergence import Row, constants_of, setting_of, step_size
from jfedsl.run.processes.compilation import compiled
from jfedsl.run.restore import restore_run, whole_of
from jfedsl.run.training import train_setting
from jfedsl.theory.bound import Terms, bound


class Pilot(NamedTuple):
    """A short run that measured the constants of the bound.

    Attributes:
      config: its settings.
      start: variables of the whole model before its first round.
      end: the same after its last round.
      rows: its measurements.
    """

    config: Config
    start: Variables
    end: Variables
    rows: list[Row]


class Prediction(NamedTuple):
    """The bound of a run that has not been trained.

    Attributes:
      total: the bound.
      shares: its terms by name, which add up to it.
      steepness: gamma times beta.
    """

    total: float
    shares: dict[str, float]
    steepness: float


def pilot_config(base: Config, rounds: int, seed: int, workdir: Path) -> Config:
    """The pilot of a setting.

    It measures constants at the last round of every period, when clients have drifted furthest.

    Args:
      base: the setting.
      rounds: of the pilot.
      seed: of the pilot.
      workdir: its folder.
    """
    every = base.aggregate_every - 1 or rounds  # with a period of one round there is no drift
    return dataclasses.replace(
        base, rounds=rounds, seed=seed, workdir=str(workdir), eval_every=rounds,
        checkpoint_every=rounds, measure_constants_every=min(every, rounds),
    )  # fmt: skip


def run_pilot(config: Config) -> Pilot:
    """Trains the pilot unless it is finished.

    Args:
      config: from `pilot_config`.

    Raises:
      UserError: the folder holds another run.
      TrainingError: the pilot diverged.
    """
    train_setting(config)
    run = restore_run(config.workdir)
    rows = read(Path(config.workdir, MEASURED))
    return Pilot(config, run.experiment.initial, whole_of(run), rows)


def measure_setting(pilot: Pilot, config: Config) -> list[Row]:
    """The constants of a setting at the first and the last model of the pilot, without training it.

    All clients hold the same model there, so that drift is not seen.

    Args:
      pilot: with the same model.
      config: the setting; the pilot's seed replaces its own, and with it its data and masks.

    Returns:
      Two measurements, in the order of rounds.
    """
    experiment = untrained(pilot, config)
    function = None
    rows = []
    for rounds, variables in ((0, pilot.start), (pilot.config.rounds, pilot.end)):
        variables = variables._replace(frozen=experiment.initial.frozen)
        state = experiment._replace(initial=variables).init()
        arguments = (experiment.data, experiment.key, state)
        function = function or compiled(experiment.measure(step_size(config)), *arguments)
        rows.append({"round": rounds, **as_row(function(*arguments))})
    return rows


def untrained(pilot: Pilot, config: Config) -> Experiment:
    """A setting, put together with the pilot's seed."""
    return build(dataclasses.replace(config, seed=pilot.config.seed, workdir=""))


def predict(pilot: Pilot, config: Config, rows: Sequence[Row]) -> Prediction:
    """The bound of a setting after all its rounds.

    Every constant is the largest of its measurements in `rows`, but for two. The gap is f before
    the first round: losses are at least 0, and how far f falls is not known yet. The secant of
    drift is the one that the pilot saw within its periods.

    Args:
      pilot: the pilot.
      config: the setting.
      rows: from `measure_setting`.
    """
    constants, effects = constants_of(rows)
    drift = constants_of(pilot.rows)[0].beta_drift
    constants = constants._replace(gap=rows[0]["loss"][0], beta_drift=drift)
    setting = setting_of(config, untrained(pilot, config), config.rounds)
    if setting.participants == setting.clients:
        constants = constants._replace(dissimilarity=0.0)  # its term has factor 0
    terms: Terms = bound(constants, effects, setting)
    shares = {name: float(value) for name, value in terms.shares._asdict().items()}
    steepness = float(np.asarray(constants.beta) * setting.step_size)
    return Prediction(float(terms.total), shares, steepness)
