"""Pilots: what is measured at their models for settings that are never trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_equal, plain

from jfedsl.config import Config
from jfedsl.run.assemble import build
from jfedsl.run.convergence import Row, constants_of, setting_of
from jfedsl.run.pilot import Pilot, measure_setting, pilot_config, predict, run_pilot
from jfedsl.theory.bound import bound


def base(**changes: Any) -> Config:
    settings = {
        "rounds": 50, "clients": 2, "train_examples": 64, "test_examples": 20, "cut": "dense1",
        "aggregate_every": 3, "measure_constants_every": 25, "sampling": "replacement",
        "client_learning_rate": 0.01, "server_learning_rate": 0.01,
    }  # fmt: skip
    return plain(**{**settings, **changes})


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Pilot:
    folder: Path = tmp_path_factory.mktemp("pilot")
    return run_pilot(pilot_config(base(), 5, 1000, folder))


OTHER = base(cut="dense2", prune_kind="mask", prune_rate=(0.5,), aggregate_every=6, rounds=80)


@pytest.fixture(scope="module")
def rows(pilot: Pilot) -> list[Row]:
    """What is measured for a setting with another cut and other masks than the pilot's."""
    return measure_setting(pilot, dataclasses.replace(OTHER, seed=3, workdir="elsewhere"))


@pytest.mark.parametrize(
    ("period", "rounds", "every"), [(4, 20, 3), (1, 20, 20), (16, 10, 10), (2, 5, 1)]
)
def test_a_pilot_measures_at_the_last_round_of_its_periods(period: int, rounds: int, every: int):
    config = pilot_config(base(aggregate_every=period), rounds, 7, Path("pilot"))
    assert config.measure_constants_every == every
    assert (config.rounds, config.seed, config.workdir) == (rounds, 7, "pilot")
    assert config.eval_every == config.checkpoint_every == rounds


def test_a_pilot_has_its_first_and_its_last_model(pilot: Pilot):
    assert [row["round"] for row in pilot.rows if "beta" in row] == [0, 2, 4, 5]
    assert_equal(pilot.start.params, build(pilot.config).initial.params)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), pilot.start, pilot.end)
    assert max(jax.tree.leaves(moved)) > 0
    # Training it again only reads what is there.
    assert_equal(run_pilot(pilot.config).end, pilot.end)


def test_every_setting_is_measured_at_the_models_of_the_pilot(pilot: Pilot, rows: list[Row]):
    assert not Path("elsewhere").exists(), "nothing is trained"
    assert [row["round"] for row in rows] == [0, 5]
    for row, of_pilot in zip(rows, (pilot.rows[0], pilot.rows[-1]), strict=True):
        # f and its gradient are those of the dense model, whatever the cut and the pruning.
        for name in ("loss", "squared_gradient", "weight"):
            np.testing.assert_allclose(row[name][0], of_pilot[name][0], rtol=1e-5)
        assert row["beta_drift"][0] is None, "all clients hold the same model"
        assert of_pilot["rho"][0] == of_pilot["phi"][0] == 0
        assert 0 < row["rho"][0] < 1 and row["phi"][0] > 0


def test_a_prediction_takes_the_drift_of_the_pilot_and_all_of_the_first_loss(
    pilot: Pilot, rows: list[Row]
):
    constants, effects = constants_of(rows)
    drift = max(row["beta_drift"][0] for row in pilot.rows if row.get("beta_drift", [None])[0])
    expected = constants._replace(gap=rows[0]["loss"][0], beta_drift=drift, dissimilarity=0.0)
    setting = setting_of(OTHER, build(OTHER), 80)
    assert (setting.steps, setting.period, setting.cut) == (80, 6, 3)
    terms = bound(expected, effects, setting)
    result = predict(pilot, OTHER, rows)
    assert result.total == pytest.approx(float(terms.total))
    assert sum(result.shares.values()) == pytest.approx(result.total, rel=1e-5)
    gap = 2 * rows[0]["loss"][0] / (0.01 * 80)
    assert result.shares["drift"] > 0
    assert result.shares["initial_gap"] == pytest.approx(gap, rel=1e-5)
    assert result.steepness == pytest.approx(0.01 * constants.beta, rel=1e-5)
    # Other periods and numbers of rounds need no measurements of their own.
    longer = predict(pilot, dataclasses.replace(OTHER, rounds=160), rows)
    assert longer.shares["initial_gap"] == pytest.approx(gap / 2, rel=1e-5)
    assert predict(pilot, dataclasses.replace(OTHER, aggregate_every=1), rows).shares["drift"] == 0
