"""Runs with a validation set: it takes the place of the test set until the run has ended."""

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import assert_equal, plain

from jfedsl.config import Config
from jfedsl.data.datasets import load as load_data
from jfedsl.data.partition import PARTITIONS
from jfedsl.data.validation import hold_out
from jfedsl.engine.evaluation_set import TestSet
from jfedsl.errors import UserError
from jfedsl.run import confusion, standard_hooks
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.assemble.examples import subset_of
from jfedsl.run.assemble.shares import examples_of_clients, notes_on_clients
from jfedsl.run.early_stopping import EarlyStopping
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run
from jfedsl.run.summary import table as end_table
from jfedsl.run.training import train
from jfedsl.studies import outcome, report
from jfedsl.studies.collect import find_runs

SMALL: dict[str, Any] = {
    "train_examples": 400, "test_examples": 150, "validation_fraction": 0.25, "local_steps": 6,
    "eval_every": 1, "client_learning_rate": 0.2, "server_learning_rate": 0.2, "rounds": 3,
}  # fmt: skip


def test_a_run_is_judged_on_the_validation_set_and_tested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_hooks, "ConfusionPicture", confusion.ConfusionPicture)
    config = plain(**SMALL, workdir=str(tmp_path / "run"), target_accuracy=0.3)
    stop = EarlyStopping(patience=3)
    summary = train(config, [stop])
    pictures = [path.name for path in (tmp_path / "run").glob("confusion*")]
    assert pictures == ["confusion_validation.png"]
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert not [column for column in rows[0] if column.startswith("test")]
    values = [float(row["validation_accuracy"]) for row in rows]
    best = stop.on_checkpoint().values["early stopping on validation_accuracy"]["best"]
    assert best == max(values), "with the digits of the file"
    final = summary["final_validation_accuracy"]
    assert (final, summary["best_validation_accuracy"]) == (values[-1], max(values))
    assert "best_accuracy" not in summary and summary["rounds_to_target"] == 1 + next(
        n for n, value in enumerate(values) if value >= 0.3
    )
    # The examples are those that no client trains on, and the test set is the usual one.
    on_test = evaluate_run(tmp_path / "run", tmp_path / "export")
    assert on_test["test_accuracy"] == summary["final_accuracy"] != final
    exported = {file: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    result = evaluate_run(tmp_path / "run", tmp_path / "export", split="validation")
    assert exported == {file: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    assert result["validation_accuracy"] == pytest.approx(final, abs=1e-8)
    dataset = subset_of(config, load_data("digits", ""))
    examples = dataset.train.at(examples_of_clients(config, dataset).validation)
    predicted = load(tmp_path / "run").predict(examples.images)
    assert (predicted == examples.labels).mean() == pytest.approx(final, abs=1e-6)
    assert f"validation accuracy         {final:.4f}" in table(result)
    shown, on_test_set = (
        (tmp_path / "run" / f"{name}.png").read_bytes()
        for name in ("confusion_validation", "confusion")
    )
    report.write([tmp_path / "run"], tmp_path / "report", "title", None)
    (in_report,) = (tmp_path / "report" / "pictures").glob("*confusion*")
    assert in_report.read_bytes() == shown != on_test_set
    experiment = restore_run(tmp_path / "run").experiment
    assert experiment.validation is not None
    counts = int(experiment.validation.valid.sum()), int(experiment.data.partition.sizes.sum())
    assert counts == (100, 300) and int(experiment.test.valid.sum()) == 150
    # What is printed, and what reads the files.
    lines = end_table(summary)
    assert lines.startswith(f"validation accuracy {final:.4f}")
    assert f"test accuracy       {summary['final_accuracy']:.4f}, evaluated once" in lines
    assert outcome.tested(summary) == f"validation accuracy {final:.4f}"
    ((recorded,), _) = find_runs([tmp_path])
    assert recorded.task.tested == "validation_accuracy"
    assert train(config) == summary, "the run is finished"


class Counted:
    """A jitted evaluation that notes how many examples each call of it has."""

    def __init__(self, jitted: Any, noted: list[int]) -> None:
        self.jitted, self.noted = jitted, noted

    def __call__(self, data: Any, state: Any, test: TestSet) -> Any:
        self.noted.append(int(test.valid.sum()))
        return self.jitted(data, state, test)

    def lower(self, *arguments: Any) -> Any:
        return SimpleNamespace(compile=lambda: self)


def test_the_test_set_is_evaluated_once_after_the_last_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, evaluate = list[int](), Experiment.evaluate
    monkeypatch.setattr(Experiment, "evaluate", lambda self: Counted(evaluate(self), sizes))
    train(plain(**SMALL, workdir=str(tmp_path / "run"), figure_format=("svg",)))
    assert sizes == [100, 100, 100, 150], "examples of the validation set, and of the test set"


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = plain(**SMALL, workdir=str(tmp_path / "whole"), participants=2, client_state="host")
    whole = train(config)
    part = dataclasses.replace(config, rounds=1, workdir=str(tmp_path / "part"))
    train(part)
    resumed = train(dataclasses.replace(part, rounds=3))
    assert_equal(restore_run(tmp_path / "part").state, restore_run(tmp_path / "whole").state)
    same = [name for name in whole if name.startswith(("final", "best_val"))]
    assert {name: whole[name] for name in same} == {name: resumed[name] for name in same}
    assert [n for n in same if "validation" not in n] == [
        "final_accuracy", "final_accuracy_dense", "final_accuracy_deployed",
    ]  # fmt: skip
    with pytest.raises(UserError, match="validation_fraction"):
        train(dataclasses.replace(part, rounds=3, validation_fraction=0.5))


def held(config: Config) -> tuple[Any, list[str]]:
    dataset = load_data("digits", "")
    result = examples_of_clients(config, dataset)
    return result, notes_on_clients(config, result, ())


@pytest.mark.parametrize("partition", [name for name, kind in PARTITIONS.items() if not kind.owned])
def test_every_partition_has_a_validation_set(partition: str) -> None:
    config = plain(partition=partition, clients=8, quantity_alpha=2.0, sampling="replacement")
    without, _ = held(config)
    result, (note, *_) = held(dataclasses.replace(config, validation_fraction=0.2))
    for before, after in zip(without.shares, result.shares, strict=True):
        gone = np.setdiff1d(before, after)
        assert np.isin(gone, result.validation).all() and np.isin(after, before).all()
        assert len(gone) == min(int(0.2 * len(before) + 0.5), len(before) - 1)
    assert f"{len(result.validation)} training examples" in note
    assert not len(without.validation)


@pytest.mark.parametrize(
    ("without", "note"),
    [
        ([3], "client 3 is too small to hold out an example; it trains on all it has"),
        (
            [0, 3, 4],
            "clients 0, 3-4 are too small to hold out an example; they train on all they have",
        ),
    ],
)
def test_small_clients_keep_their_examples_and_are_named(without: list[int], note: str) -> None:
    sizes = [1 if n in without else 10 for n in range(5)]
    shares = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    config = plain(validation_fraction=0.2)
    result = hold_out(shares, config.validation_fraction, 0)
    assert notes_on_clients(config, result, ())[1:] == [note]
    assert [len(result.shares[n]) for n in without] == [1] * len(without)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"validation_fraction": 1.0},
            r"--validation_fraction must be a fraction in \[0, 1\)",
        ),
        ({"validation_fraction": -0.1}, r"--validation_fraction must be a fraction in \[0, 1\)"),
        (
            {"validation_fraction": 0.001, "clients": 20},
            "--validation_fraction must be large enough that a client holds out an example, not "
            "0.001; the largest client has 72 examples",
        ),
        (
            {"validation_fraction": 0.5, "clients": 20, "batch_size": 40},
            r"--batch_size must be at most 35 .the training examples of client \d+., not 40",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        held(plain(**changes))


def test_a_run_without_a_validation_set_is_judged_on_the_test_set() -> None:
    experiment = build(plain(train_examples=60))
    assert experiment.validation is None and experiment.evaluated is experiment.test
    assert experiment.record.stored == {
        "metric": "accuracy", "higher_is_better": True, "of_classes": True,
    }  # fmt: skip
