"""Predicted bounds of a study: made before anything is trained, once, and from one pilot."""

import csv
from pathlib import Path
from typing import Any

import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run import pilot as pilots
from jfedsl.run.pilot import Pilot, Prediction
from jfedsl.studies import bound, bound_prediction, records
from jfedsl.studies.bound_prediction import (
    CONSTANTS,
    PREDICTED,
    PilotPlan,
    predict_all,
    read_predictions,
)
from jfedsl.studies.bound_settings import Settings, settings_of

PLAN = PilotPlan(4, 1000)
SWEEPS = {
    "period": {"1": {}, "2": {"aggregate_every": 2}},
    "dropout": {"0": {}, "0.5": {"dropout_rate": 0.5}},
}


def base(workdir: Path, **changes: Any) -> Config:
    return plain(workdir=str(workdir), measure_constants_every=2, **changes)


def of(base: Config) -> Settings:
    return settings_of(base, SWEEPS, (0, 1))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dropout rates of settings that were measured; pilots and measurements are made up."""
    rates: list[str] = []

    def measure_setting(pilot: Pilot, config: Config) -> list[dict[str, Any]]:
        rates.append(str(config.dropout_rate))
        return [{"round": 0, "loss": [float(config.dropout_rate), 0.0]}]

    def predict(pilot: Pilot, config: Config, rows: list[dict[str, Any]]) -> Prediction:
        total = config.aggregate_every + rows[0]["loss"][0]
        return Prediction(total, {"initial_gap": total}, 0.5)

    def run_pilot(config: Config) -> Pilot:
        return Pilot(config, *[pilots.Variables((), ())] * 2, [])

    monkeypatch.setattr(bound_prediction, "measure_setting", measure_setting)
    monkeypatch.setattr(bound_prediction, "predict", predict)
    monkeypatch.setattr(bound_prediction, "run_pilot", run_pilot)
    return rates


def test_all_settings_are_predicted_and_periods_share_measurements(
    tmp_path: Path, measured: list[str]
):
    result = predict_all(base(tmp_path), of(base(tmp_path)), PLAN)
    assert {name: p.total for name, p in result.items()} == {
        "period 1": 1.0, "period 2": 2.0, "dropout 0.5": 1.5,
    }  # fmt: skip
    assert len(measured) == 2, "one for both periods"
    with open(tmp_path / PREDICTED, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["varied"], r["value"], r["predicted"]) for r in rows] == [
        ("period", "1", "1"), ("period", "2", "2"), ("dropout", "0", "1"), ("dropout", "0.5", "1.5")
    ]  # fmt: skip
    assert rows[0]["initial_gap"] == "1" and rows[0]["gamma_beta"] == "0.5"
    assert read_predictions(tmp_path / PREDICTED, of(base(tmp_path))) == result
    other = settings_of(base(tmp_path), {"cut": {"dense1": {"cut": "dense1"}}}, (0,))
    with pytest.raises(UserError, match=r"predicted.csv lacks predictions of this study: \('cut'"):
        read_predictions(tmp_path / PREDICTED, other)
    with pytest.raises(UserError, match="nothing.csv is not there; the bound was not predicted"):
        read_predictions(tmp_path / "nothing.csv", other)


def test_predictions_go_on_where_they_stopped(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
):
    config, whole = base(tmp_path), bound_prediction.measure_setting

    def interrupted(pilot: Pilot, config: Config) -> list[dict[str, Any]]:
        if measured:
            raise KeyboardInterrupt
        return whole(pilot, config)

    with monkeypatch.context() as patch:
        patch.setattr(bound_prediction, "measure_setting", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_all(config, of(config), PLAN)
    assert not (tmp_path / PREDICTED).exists()
    predict_all(config, of(config), PLAN)
    assert measured == ["0.0", "0.5"], "each once"
    before = (tmp_path / PREDICTED).stat().st_mtime_ns
    predict_all(config, of(config), PLAN)
    assert len(measured) == 2 and (tmp_path / PREDICTED).stat().st_mtime_ns == before


@pytest.mark.usefixtures("measured")
def test_everything_is_predicted_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []

    class Trained(Exception):
        pass

    def train_setting(config: Config) -> dict[str, Any]:
        seen.append((tmp_path / PREDICTED).read_text())
        raise Trained

    monkeypatch.setattr(records, "train_setting", train_setting)
    with pytest.raises(Trained):
        bound.conduct(bound.BoundStudy(base(tmp_path), SWEEPS, (0, 1), PLAN))
    (text,) = seen
    assert len(text.splitlines()) == 1 + 4


@pytest.mark.usefixtures("measured")
def test_a_setting_that_was_trained_first_is_refused(tmp_path: Path):
    config = base(tmp_path)
    (tmp_path / "dropout_0.5" / "seed_1").mkdir(parents=True)
    with pytest.raises(UserError, match="--workdir .*seed_1 was trained before"):
        predict_all(config, of(config), PLAN)
    assert not (tmp_path / CONSTANTS).exists()


@pytest.mark.usefixtures("measured")
def test_the_pilot_stays_the_same_and_out_of_the_study(tmp_path: Path):
    config = base(tmp_path)
    with pytest.raises(UserError, match="--pilot_seed must be a seed .*, not 1; --seeds=0,1"):
        predict_all(config, of(config), PilotPlan(4, 1))
    predict_all(config, of(config), PLAN)
    with pytest.raises(UserError, match="--pilot_rounds must be 4, not 8; the predictions in"):
        predict_all(config, of(config), PilotPlan(8, 1000))
    with pytest.raises(UserError, match="--pilot_seed must be 1000, not 1001;"):
        predict_all(config, of(config), PilotPlan(4, 1001))
    path = tmp_path / CONSTANTS
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(UserError, match=f"{CONSTANTS} is damaged"):
        predict_all(config, of(config), PLAN)
