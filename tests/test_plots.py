"""The public module of pictures reads runs and compares their settings."""

import dataclasses
from pathlib import Path

import pytest
from helpers import plain
from studies.recorded import record

from jfedsl import plots
from jfedsl.errors import UserError


def test_runs_are_read_and_settings_compared(tmp_path: Path) -> None:
    config = plain(rounds=4, eval_every=2, network="macro_cell")
    for number, rate in enumerate((0.1, 0.1, 0.2)):
        changes = {"client_learning_rate": rate, "seed": number}
        record(tmp_path / str(number), dataclasses.replace(config, **changes), 0.1 + rate)
    runs = plots.read_runs(tmp_path / "0", tmp_path)
    assert [run.config.seed for run in runs] == [0, 1, 2]
    figure = plots.comparison(runs)
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == [
        "round", "megabytes sent", "simulated time (s)", "energy of all devices (J)",
    ]  # fmt: skip
    names = [f"client_learning_rate={rate}" for rate in (0.1, 0.2)]
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == names
    with pytest.raises(UserError, match="nowhere must be a folder with a run"):
        plots.read_runs(tmp_path / "nowhere")


def test_what_is_public_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "api.md").read_text()
    names = [name for name in plots.__all__ if not name.isupper()]
    assert [name for name in names if f"::: jfedsl.plots.{name}\n" not in page] == []
