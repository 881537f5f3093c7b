"""metrics.csv: append-only, cut at a round, torn lines dropped; what a summary makes of it."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.errors import UserError
from jfedsl.run.storage import ledger
from jfedsl.run.storage.metrics import Metrics, columns_of, read, summarise
from jfedsl.run.storage.task_record import CLASSIFICATION

COLUMNS = columns_of(CLASSIFICATION)


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
    Metrics(path).append([{**row(1), "train_loss": value}])
    assert np.float32(read(path)[0]["train_loss"]) == np.float32(value)


def test_counts_beyond_64_bits_survive(tmp_path):
    path = tmp_path / "metrics.csv"
    Metrics(path).append([{**row(1), "cumulative_bytes": 2**70 + 1}])
    assert read(path)[0]["cumulative_bytes"] == 2**70 + 1


@pytest.mark.parametrize(
    "torn", ["", "3", "3,0.25,,,,4", "3,0.25,,,,4,4,4,4,4,3,0.3,0.", "3,0.2\0", "3,\xff\n"]
)
def test_rows_past_the_seal_and_torn_ones_are_cut_off(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path)
    metrics.append([row(n) for n in (1, 2)])
    seal = json.loads(json.dumps(metrics.seal()))
    metrics.append([row(3)])
    with open(path, "a", encoding="latin1") as file:
        file.write(torn)
    with warnings.catch_warnings(action="error"):
        metrics = Metrics(path, seal=seal)
    assert [r["round"] for r in metrics.rows()] == [1, 2]
    metrics.append([row(3)])
    assert [r["round"] for r in read(path)] == [1, 2, 3]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("text", ["", "round,tra", "\xff"])
def test_a_file_of_a_run_without_a_checkpoint_starts_anew(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text, encoding="latin1")
    assert Metrics(path).rows() == []
    assert path.read_text() == ",".join(COLUMNS) + "\n"


DAMAGES = {
    "a digit": lambda data: data.replace(b",0.333333333,", b",0.333333334,"),
    "no text": lambda data: data.replace(b",0.5,", b",0.\xff,"),
    "a short row": lambda data: data.replace(b",0.3,,0.1\n", b"\n", 1),
    "a row less": lambda data: data[: data.rindex(b"\n3,") + 1],
    "cut": lambda data: data[: len(data) // 2],
    "other line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_rows_are_named_and_put_back(tmp_path, damage):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path)
    metrics.append([row(1), row(2, 0.5), row(3)])
    whole, seal = path.read_bytes(), metrics.seal()
    damaged = damage(whole)
    assert damaged != whole
    path.unlink() if damaged is None else path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"metrics\.csv (was damaged or changed|is missing)"):
        read(path)
    with pytest.warns(match=r"metrics\.csv was damaged .*; put back from the checkpoint"):
        Metrics(path, seal=seal)
    assert path.read_bytes() == whole and len(read(path)) == 3
    path.write_bytes(b"")
    nothing = {**seal, "copy": Metrics(tmp_path / "other.csv").seal()["copy"]}
    with pytest.raises(UserError, match="put the file back"):
        Metrics(path, seal=nothing)


def test_a_mark_that_editors_add_is_no_damage(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path)
    metrics.append([row(1)])
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    assert read(path)[0]["round"] == 1
    Metrics(path, seal=metrics.seal())
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["round\n2\n", "round\n1,2\n", "round\nx\n"])
def test_what_are_no_metrics_is_one_line(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(",".join(COLUMNS[1:]) + "," + text)
    with pytest.raises(UserError, match=r"metrics\.csv: not the"):
        read(path)


def test_summary_of_a_run_that_meets_its_target():
    rows = [row(1), row(2, 0.5), row(3), row(4, 0.9), row(5, 0.8)]
    summary = summarise(rows, 0.75)
    assert (summary["final_accuracy"], summary["best_accuracy"]) == (0.8, 0.9)
    assert (summary["best_round"], summary["rounds_to_target"]) == (4, 4)
    assert summary["bytes_to_target"] == rows[3]["cumulative_bytes"]
    assert summary["bytes"]["model_up"] == 1 + 2 + 3 + 4 + 5


def test_a_target_is_reached_when_the_tested_model_has_been_sent():
    rows = [row(1), row(2), row(3, 0.6), row(4, 0.9), row(5), row(6, 0.8), row(7, 0.85)]
    assert [summarise(rows, 0.75, period)["rounds_to_target"] for period in (1, 3, 5)] == [
        4,
        6,
        None,
    ]


def test_rows_of_a_build_that_did_not_test_the_deployed_model_are_read(tmp_path):
    path = tmp_path / "metrics.csv"
    Metrics(path).append([row(1, 0.5)])
    names = path.read_text().splitlines()[0].split(",")
    column = names.index("test_accuracy_deployed")
    lines = [line.split(",") for line in path.read_text().splitlines()]
    text = "".join(",".join(v[:column] + v[column + 1 :]) + "\n" for v in lines)
    path.unlink()
    ledger.Ledger(path, text, None)
    assert read(path)[0] == {**row(1, 0.5), "train_loss": 1}


def test_summary_of_a_run_that_never_does():
    summary = summarise([row(1, 0.5)], 0.75)
    assert summary["rounds_to_target"] is None and summary["bytes_to_target"] is None
