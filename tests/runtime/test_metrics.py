"""metrics.csv: append-only, cut at a round, torn lines dropped; what a summary makes of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.runtime.metrics import COLUMNS, Metrics, read, summarise


def row(number, accuracy=None):
    evaluation = {} if accuracy is None else {
        "test_loss": 0.5, "test_accuracy": accuracy, "test_accuracy_dense": accuracy
    }  # fmt: skip
    empty = dict.fromkeys(COLUMNS)
    counts = {c: number for c in COLUMNS if c.endswith("_bytes")}
    return {
        **empty,
        "round": number, "train_loss": 1 / number, "participants": 3, "pruned_fraction": 0.3,
        "host_seconds": 0.1, **counts, **evaluation,
    }  # fmt: skip


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_values_survive_the_file(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    Metrics(path, 0).append([{**row(1), "train_loss": value}])
    assert np.float32(read(path)[0]["train_loss"]) == np.float32(value)


def test_counts_beyond_64_bits_survive(tmp_path):
    path = tmp_path / "metrics.csv"
    Metrics(path, 0).append([{**row(1), "cumulative_bytes": 2**70 + 1}])
    assert read(path)[0]["cumulative_bytes"] == 2**70 + 1


@pytest.mark.parametrize(
    "torn", ["", "4", "4,0.25,,,,4", "4,0.25,,,,4,4,4,4,4,3,0.3,0.", "4,0.2\0"]
)
def test_rows_past_the_round_and_torn_ones_are_cut_off(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    Metrics(path, 0).append([row(n) for n in (1, 2, 3)])
    with open(path, "a") as file:
        file.write(torn)
    metrics = Metrics(path, 2)
    assert [r["round"] for r in metrics.rows()] == [1, 2]
    metrics.append([row(3)])
    assert [r["round"] for r in read(path)] == [1, 2, 3]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("text", ["", "round,tra"])
def test_a_file_killed_in_its_header_starts_anew(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    assert Metrics(path, 0).rows() == []
    assert path.read_text() == ",".join(COLUMNS) + "\n"


def test_summary_of_a_run_that_meets_its_target():
    rows = [row(1), row(2, 0.5), row(3), row(4, 0.9), row(5, 0.8)]
    summary = summarise(rows, 0.75)
    assert (summary["final_accuracy"], summary["best_accuracy"]) == (0.8, 0.9)
    assert (summary["best_round"], summary["rounds_to_target"]) == (4, 4)
    assert summary["bytes_to_target"] == rows[3]["cumulative_bytes"]
    assert summary["bytes"]["model_up"] == 1 + 2 + 3 + 4 + 5


def test_summary_of_a_run_that_never_does():
    summary = summarise([row(1, 0.5)], 0.75)
    assert summary["rounds_to_target"] is None and summary["bytes_to_target"] is None
