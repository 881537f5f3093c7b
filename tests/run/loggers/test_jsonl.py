"""metrics.jsonl beside metrics.csv: the same rounds, whatever happened to the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.run.hooks import Hook
from jfedsl.run.loggers.jsonl import _lines
from jfedsl.run.storage.metrics import columns_in, known, read
from jfedsl.run.training import train


def short(folder: Path, **changes: Any) -> Config:
    settings = {"rounds": 5, "aggregate_every": 2, "eval_every": 2, "checkpoint_every": 2}
    few = {"train_examples": 100, "test_examples": 20, "loggers": "jsonl"}
    return plain(**{**settings, **few, "workdir": str(folder), **changes})


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Kill(Hook):
    """Ends a run as a kill would, once rows past a checkpoint are written."""

    def on_rows(self, rows: list[dict[str, Any]]) -> None:
        if rows[-1]["round"] > 2:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_to_the_rows_of_metrics_csv(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(short(tmp_path), [Kill()])
    assert len(rows_in(tmp_path)) > 2
    train(short(tmp_path, rounds=2))  # the rounds of the checkpoint
    assert [row["round"] for row in rows_in(tmp_path)] == [1, 2]
    train(short(tmp_path))
    rows = read(tmp_path / "metrics.csv")
    assert rows_in(tmp_path) == [known(row) for row in rows]
    columns = columns_in(tmp_path / "metrics.csv")
    for row in rows_in(tmp_path):
        assert list(row) == [column for column in columns if column in row]
    # A finished run that had no such file gets it whole.
    text = (tmp_path / "metrics.jsonl").read_text()
    other = tmp_path / "other"
    train(short(other, loggers="none"))
    train(short(other))
    assert (other / "metrics.jsonl").read_text().count("\n") == text.count("\n") == 5


def test_what_json_lacks_is_null() -> None:
    assert _lines([{"round": 1, "loss": float("nan"), "empty": None}]) == (
        '{"round": 1, "loss": null}\n'
    )
