"""Predicted bounds of a study: made before anything is trained, once, and from one pilot."""

import csv
import dataclasses
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
    PREDICTED,
    PREDICTIONS,
    PilotPlan,
    predict_all,
    read_predictions,
    write_predictions,
    write_table,
)
from jfedsl.studies.bound_settings import Settings, settings_of
from jfedsl.studies.records import Known, Record, flags_of

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
    result = predict_all(base(tmp_path), of(base(tmp_path)), PLAN, Known())
    assert {name: one.prediction.total for name, one in result.items()} == {
        "period 1": 1.0, "period 2": 2.0, "dropout 0.5": 1.5,
    }  # fmt: skip
    assert len(measured) == 2, "one for both periods"
    write_table(tmp_path, of(base(tmp_path)), result)
    with open(tmp_path / PREDICTED, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["varied"], r["value"], r["predicted"]) for r in rows] == [
        ("period", "1", "1"), ("period", "2", "2"), ("dropout", "0", "1"), ("dropout", "0.5", "1.5")
    ]  # fmt: skip
    assert rows[0]["initial_gap"] == "1" and rows[0]["gamma_beta"] == "0.5"
    config, folder = base(tmp_path), [tmp_path]
    assert read_predictions(config, of(config), PLAN, folder) == result
    elsewhere = base(tmp_path / "elsewhere")
    assert predict_all(elsewhere, of(elsewhere), PLAN, Known(), folder) == result
    fewer = settings_of(config, {"period": SWEEPS["period"]}, (0, 1))
    write_predictions(tmp_path, predict_all(config, fewer, PLAN, Known()))
    assert read_predictions(config, of(config), PLAN, folder) == result, "other lines stay"
    assert len(measured) == 2, "predictions are known by what was predicted, wherever they lie"
    for other, plan in (
        (config, PilotPlan(5, 1000)),
        (config, PilotPlan(4, 1001)),
        (dataclasses.replace(config, client_learning_rate=0.5), PLAN),
        (dataclasses.replace(config, aggregate_every=4), PLAN),
    ):
        with pytest.raises(UserError, match="bound of 'period 1' was not predicted from this pilo"):
            read_predictions(other, of(other), plan, folder)


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
            predict_all(config, of(config), PLAN, Known())
    assert len((tmp_path / PREDICTIONS).read_text().splitlines()) == 2
    predict_all(config, of(config), PLAN, Known())
    assert measured == ["0.0", "0.5"], "each once"
    before = (tmp_path / PREDICTIONS).stat().st_mtime_ns
    predict_all(config, of(config), PLAN, Known())
    assert len(measured) == 2 and (tmp_path / PREDICTIONS).stat().st_mtime_ns == before


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
    last = of(config).runs["dropout 0.5"][1]
    recorded = Known([Record("dropout 0.5", flags_of(last), {}, [])])
    with pytest.raises(UserError, match="'dropout 0.5', seed 1, has a record but no prediction"):
        predict_all(config, of(config), PLAN, recorded)
    (tmp_path / "dropout_0.5" / "seed_1").mkdir(parents=True)
    with pytest.raises(UserError, match="--workdir .*seed_1 was trained before"):
        predict_all(config, of(config), PLAN, Known())
    assert not (tmp_path / PREDICTIONS).exists()


@pytest.mark.usefixtures("measured")
def test_the_pilot_stays_the_same_and_out_of_the_study(tmp_path: Path):
    config = base(tmp_path)
    with pytest.raises(UserError, match="--pilot_seed must be a seed .*, not 1; --seeds=0,1"):
        predict_all(config, of(config), PilotPlan(4, 1), Known())
    predict_all(config, of(config), PLAN, Known())
    (tmp_path / "period_1" / "seed_0").mkdir(parents=True)
    predict_all(config, of(config), PLAN, Known())
    with pytest.raises(UserError, match="was trained before its bound was predicted from this p"):
        predict_all(config, of(config), PilotPlan(8, 1000), Known())
    path = tmp_path / PREDICTIONS
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=f"{PREDICTIONS} is damaged"):
        predict_all(config, of(config), PLAN, Known())
