"""The benchmark of the host's share of a run."""

import importlib
from pathlib import Path

import pytest
from helpers import plain

from jfedsl.run.training import train

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_calls_and_checkpoints_add_up_to_no_more_than_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    watch = importlib.import_module("host").Watch()
    small = {"model": "mlp", "norm": "none", "train_examples": 300, "test_examples": 100}
    every = {"rounds": 4, "eval_every": 2, "checkpoint_every": 4}
    train(plain(**small, **every, workdir=str(tmp_path / "run")), [watch])
    assert watch.calls >= 2
    assert min(watch.in_calls, watch.saving) > 0
    assert watch.in_calls + watch.saving <= watch.end - watch.began
