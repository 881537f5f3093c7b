"""Runs that end early: what they leave, and how they go on."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_equal, plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.early_stopping import EarlyStopping
from jfedsl.run.finished import already_done, finished
from jfedsl.run.hooks import Hook
from jfedsl.run.restore import restore_run
from jfedsl.run.summary import table
from jfedsl.run.training import train
from jfedsl.studies.collect import find_runs, settings_of


def lasting(workdir: Path, **changes: Any) -> Config:
    """Periods of two rounds, evaluated at the end of each, saved less often."""
    settings = {
        "rounds": 8, "aggregate_every": 2, "eval_every": 2, "checkpoint_every": 3,
        "train_examples": 200, "test_examples": 100,
    }  # fmt: skip
    return plain(**{**settings, "workdir": str(workdir), **changes})


def rows_of(workdir: Path) -> list[dict[str, str]]:
    with open(workdir / "metrics.csv", newline="") as file:
        return [{**row, "host_seconds": ""} for row in csv.DictReader(file)]


class Calls(Hook):
    """Counts compiled calls."""

    count = 0

    def before_call(self, round_: int, state: Any) -> Any:
        self.count += 1
        return state


def test_a_run_that_ends_early_is_whole_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    straight, early = tmp_path / "straight", tmp_path / "early"
    train(lasting(straight))
    # No accuracy gains so much: the first evaluation counts as the best, the second ends the run.
    summary = train(lasting(early), [EarlyStopping(1, min_delta=2.0)])
    assert summary["rounds"] == 4 and summary["final_accuracy"] >= 0
    reason = "no improvement in 1 evaluation"
    assert summary["ended_early"] == {"planned_rounds": 8, "reason": reason}
    assert f"\nstopped             after round 4 of 8: {reason}\n" in table(summary)
    assert rows_of(early) == rows_of(straight)[:4]
    assert restore_run(early).state.round == 4
    pictures = {"curves.png", "traffic.png", "labels.png"}
    assert pictures <= {path.name for path in early.iterdir()}

    calls = Calls()
    again = train(lasting(early), [EarlyStopping(1, min_delta=2.0), calls])
    assert calls.count == 0 and again == summary
    # A longer patience goes on counting where the run stopped.
    assert train(lasting(early), [EarlyStopping(2, min_delta=2.0)])["rounds"] == 6
    assert finished(lasting(early)) is None
    last = train(lasting(early))
    assert last["rounds"] == 8 and last["ended_early"] is None
    assert rows_of(early) == rows_of(straight)
    assert_equal(restore_run(early).state, restore_run(straight).state)


def test_flags_end_a_run_and_the_same_command_leaves_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"target_accuracy": 0.3, "rounds": 40}
    stopping = lasting(tmp_path / "run", **target, stop_at_target=True)
    summary = train(stopping)
    assert summary["rounds"] == summary["rounds_to_target"] < 40
    assert summary["ended_early"] == {"planned_rounds": 40, "reason": "accuracy 0.3 reached"}
    assert already_done(stopping) == summary
    assert train(dataclasses.replace(stopping, progress="lines")) == summary
    shown = f"ended after round {summary['rounds']} of 40: accuracy 0.3 reached\n"
    assert capsys.readouterr().out.endswith(shown)
    # To studies and reports it is a finished run, of another setting than one with all rounds.
    (run,), _ = find_runs([tmp_path])
    assert run.finished
    train(lasting(tmp_path / "other", **{**target, "rounds": summary["rounds"]}))
    assert len(settings_of(find_runs([tmp_path])[0])) == 2
    # A logger less is nothing to do, and one more is.
    assert already_done(dataclasses.replace(stopping, loggers="none")) == summary
    assert already_done(dataclasses.replace(stopping, loggers="jsonl")) is None
    # As many rounds as there are: nothing ended that run early.
    exact = train(dataclasses.replace(stopping, rounds=summary["rounds"]))
    assert exact["rounds"] == summary["rounds"] and exact["ended_early"] is None
    # Other flags have more to do: here a target that is further away.
    further = dataclasses.replace(stopping, target_accuracy=1.0, rounds=summary["rounds"] + 2)
    assert already_done(further) is None
    longer = train(further)
    assert longer["rounds"] == summary["rounds"] + 2 and longer["ended_early"] is None


def test_patience_counts_the_rounds_before_it_was_asked_for(tmp_path: Path) -> None:
    stuck = {"client_learning_rate": 0.0, "server_learning_rate": 0.0}
    train(lasting(tmp_path, rounds=4, **stuck))
    patient = lasting(tmp_path, rounds=12, **stuck, patience=2)
    summary = train(patient)
    # Evaluations after rounds 2, 4 and 6 are equal, and the first one counts as the best.
    assert summary["rounds"] == 6 and already_done(patient) == summary
    assert train(dataclasses.replace(patient, patience=0))["rounds"] == 12


def test_two_that_count_one_metric_are_refused_at_the_start(tmp_path: Path) -> None:
    calls = Calls()
    with pytest.raises(UserError, match="two parts .* save 'early stopping on test_accuracy'"):
        train(lasting(tmp_path, patience=3), [EarlyStopping(2), calls])
    assert calls.count == 0


def counted(hook: EarlyStopping, values: list[float | None], metric: str) -> list[bool]:
    ends = []
    for value in values:
        hook.on_rows([{metric: value}])
        ends.append(hook.should_end())
    return ends


def test_patience_counts_values_since_the_best() -> None:
    hook = EarlyStopping(2, min_delta=0.1)
    values = [0.1, 0.15, None, 0.3, 0.35, 0.38]
    assert counted(hook, values, "test_accuracy") == [False] * 5 + [True]
    loss = EarlyStopping(1, "test_loss")
    assert counted(loss, [2.0, 1.0, None, 1.5], "test_loss") == [False, False, False, True]


def test_a_column_that_no_row_has_is_an_error() -> None:
    hook = EarlyStopping(1, "test_acuracy")
    hook.on_rows([{"test_accuracy": None}])
    with pytest.raises(UserError, match="no column test_acuracy .*did you mean test_accuracy"):
        hook.on_rows([{"test_accuracy": 0.5}])


def test_patience_is_positive() -> None:
    with pytest.raises(ValueError, match="patience must be at least 1, not 0"):
        EarlyStopping(0)
