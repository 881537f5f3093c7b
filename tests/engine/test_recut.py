"""Cuts that change between periods."""

import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_close, assert_equal, plain, slow
from scripted_cuts import CHOOSES, CUTS, scripted

from jfedsl.config import Config
from jfedsl.engine.averaging import joined
from jfedsl.engine.parts import cuts_of
from jfedsl.errors import UserError
from jfedsl.run import replanning, training
from jfedsl.run.assemble import cuts_by_resource
from jfedsl.run.evaluate import evaluate_run
from jfedsl.run.hooks import Hook, RunStart
from jfedsl.run.loop import Loop
from jfedsl.run.restore import restore_run


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts in a fixed order instead of the fastest ones."""
    monkeypatch.setattr(cuts_by_resource, "fastest_cuts", scripted())


def config(folder: Path, **changes: Any) -> Config:
    return plain(**{**CHOOSES, "workdir": str(folder), **changes})


def params_of(folder: Path) -> Any:
    run = restore_run(folder)
    return joined(run.experiment.spec, run.experiment.data.partition, run.state).params


def metrics_of(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, but for times here and for tests, which an interruption adds."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in r.items() if k != "host_seconds" and "test" not in k} for r in rows]


class Watch(Hook):
    """Keeps the round and the cuts of each beginning."""

    def __init__(self) -> None:
        self.cuts: list[list[int]] = []
        self.rounds: list[int] = []

    def begin(self, start: RunStart) -> None:
        self.cuts.append(cuts_of(start.experiment.spec).tolist())
        self.rounds.append(start.round)


@pytest.mark.parametrize("state", ["keep", slow("average")])
def test_momentum_goes_on_as_if_nothing_had_moved(
    in_order: None, tmp_path: Path, state: str
) -> None:
    """One local step a period: averages of all copies take the steps of a single cut."""
    options = {"client_optimizer_state": state}
    watch = Watch()
    summary = training.train(config(tmp_path / "moving", **options), [watch])
    assert watch.rounds == [0, 2, 4] and watch.cuts == [list(cuts) for cuts in CUTS]
    names = [row["participants"] for row in summary["cuts"]]
    assert names == [{"dense1": 2, "dense2": 2}, {"dense1": 2, "dense2": 2}, {"dense1": 4}]
    training.train(config(tmp_path / "one", cut="dense1", replan_every=None, **options))
    assert_close(params_of(tmp_path / "moving"), params_of(tmp_path / "one"))
    sent = summary["bytes"]
    if state == "keep":  # nothing is compressed
        assert summary["uncompressed_bytes"] == {name: sent[name] for name in sent}


def test_an_interrupted_run_makes_the_same_choices(in_order: None, tmp_path: Path) -> None:
    compressed = {
        "smashed": "feedback(topk(0.3))", "cut_gradient": "uniform(8)", "prune_kind": "channel",
        "prune_rate": (0.5, 0.0, 0.0, 0.5), "model_up": "uniform(8)",
    }  # fmt: skip
    training.train(config(tmp_path / "whole", **compressed))
    for rounds in (3, 6):
        training.train(config(tmp_path / "pieces", rounds=rounds, **compressed))
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "pieces")
    whole, pieces = (restore_run(tmp_path / name) for name in ("whole", "pieces"))
    assert_equal(whole.state, pieces.state)
    assert cuts_of(pieces.experiment.spec).tolist() == list(CUTS[2])
    assert evaluate_run(tmp_path / "pieces", tmp_path / "export")["round"] == 6


def test_a_choice_that_changes_nothing_builds_and_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    compile_, prepare = Loop._compile, replanning.prepared
    monkeypatch.setattr(Loop, "_compile", lambda loop: made.append("compiled") or compile_(loop))
    monkeypatch.setattr(
        replanning, "prepared", lambda *options: made.append("built") or prepare(*options)
    )
    monkeypatch.setattr(cuts_by_resource, "fastest_cuts", scripted(CUTS[:1] * 3))
    options = {"prune_kind": "mask", "model_up": "feedback(topk(0.3))"}
    training.train(config(tmp_path / "kept", **options))
    assert made == ["compiled"]
    with monkeypatch.context() as patch:
        patch.setattr(replanning, "cuts_of", lambda spec: None)  # none are equal to any
        training.train(config(tmp_path / "rebuilt", **options))
    assert made.count("compiled") == 4 and made.count("built") == 4
    kept, rebuilt = (tmp_path / name for name in ("kept", "rebuilt"))
    assert metrics_of(kept) == metrics_of(rebuilt)
    assert_equal(restore_run(kept).state, restore_run(rebuilt).state)


def test_partial_participation_moves_what_absent_clients_keep(
    in_order: None, tmp_path: Path
) -> None:
    watch = Watch()
    training.train(config(tmp_path / "some", participants=3), [watch])
    assert watch.cuts == [list(cuts) for cuts in CUTS]
    run = restore_run(tmp_path / "some")
    kept = jax.tree.leaves(run.state.memory.optimizer)
    assert kept and all(np.isfinite(leaf).all() and np.any(leaf) for leaf in kept)


@pytest.mark.usefixtures("standard_promotion")  # for optax's Adam
@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"optimizer": "adam", "outage_snr_db": 3.0},
    {"client_optimizer_state": "reset", "deadline_s": 0.02},
    {"norm": "batch", "model": "cnn", "stop_at_target": True, "target_accuracy": 0.0},
    {"model_up": "feedback(topk(0.3))", "prune_kind": "mask", "prune_score": "taylor"},
])  # fmt: skip
def test_runs_go_on_with_whatever_else_they_have(
    in_order: None, tmp_path: Path, changes: dict[str, Any]
) -> None:
    summary = training.train(config(tmp_path, eval_every=2, **changes))
    assert summary["rounds"] == (2 if "stop_at_target" in changes else 6)
    assert len(summary["cuts"]) == summary["rounds"] // 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params_of(tmp_path)))


ERRORS = [
    ({"cut": "dense1"}, "replan_every=2 has no effect without --cut=by_resource"),
    ({"aggregate_every": 4}, "replan_every must be a multiple of --aggregate_every=4, not 2"),
    ({"model_down": "uniform(8)"}, "replan_every=2 cannot be combined with a compressor of"),
    ({"participants": 2, "client_state": "host"}, "=2 cannot be combined with --client_state=host"),
]


@pytest.mark.parametrize(("changes", "text"), ERRORS)
def test_what_choices_cannot_go_with_is_refused(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=text):
        config(tmp_path, **changes)


def test_every_cut_that_may_be_chosen_needs_a_participant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"participants must be at least 2 \(one for each cut"):
        training.train(config(tmp_path / "few", participants=1))
