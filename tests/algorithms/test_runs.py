"""Whole runs of rivals: what they resume to, how they are evaluated, and what starts from them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_close, assert_equal, plain, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.engine.averaging import joined
from jfedsl.run import training
from jfedsl.run.evaluate import evaluate_run
from jfedsl.run.hooks import Hook
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run

COMMON: dict[str, Any] = {
    "clients": 3, "rounds": 5, "aggregate_every": 2, "eval_every": 1, "checkpoint_every": 1,
    "momentum": 0.9, "network": "macro_cell", "train_examples": 300, "test_examples": 100,
}  # fmt: skip
BITS = {"cut_gradient_bits": 8, "client_gradient_bits": 8, "model_bits": 8}
RIVALS: dict[str, dict[str, Any]] = {
    "fedsl": {
        "cut": "dense2,dense1,dense2", "prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5),
        "smashed": "feedback(topk(0.3))", "cut_gradient": "feedback(topk(0.3))",
        "model_up": "uniform(8)", "model_down": "uniform(8)", "outage_snr_db": 3.0,
        "participants": 2,
    },
    "sfl_v1": {
        "prune_kind": "mask", "prune_score": "random", "dropout_rate": 0.2, "outage_snr_db": 3.0,
        "participants": 2, "client_optimizer_state": "average", "fading_memory": 0.9,
        "device_speed": 20.0, "mobility_step_s": 5.0, **BITS,
    },
    "sfl_v2": {
        "prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5), "model_down": "uniform(8)",
        "cut_gradient": "feedback(topk(0.3))", "norm": "batch",
    },
    "sl": {
        "prune_kind": "mask", "prune_score": "random", "model_down": "uniform(8)",
        "smashed_bits": 8, "norm": "batch",
    },
    "fedavg": {
        "prune_kind": "channel", "model_up": "feedback(topk(0.3)|uniform(8))", "norm": "group",
        "outage_snr_db": 3.0, "participants": 2, "client_gradient_bits": 8,
    },
    "local_loss": {
        "prune_kind": "mask", "prune_score": "random", "smashed": "feedback(topk(0.3))",
        "upload_every": 2, "local_steps": 2, "model_up": "uniform(8)", "participants": 2,
    },
    "sage": {
        "prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5), "smashed": "feedback(topk(0.3))",
        "cut_gradient": "feedback(topk(0.3))", "upload_every": 3, "local_steps": 2,
        "align_every": 2, "participants": 2, "outage_snr_db": 3.0,
    },
    "semi_async": {
        "prune_kind": "mask", "prune_score": "random", "smashed": "feedback(topk(0.3))",
        "model_up": "uniform(8)", "quorum": 2, "staleness": "poly(0.5)", "max_staleness": 3,
    },
    "broadcast": {
        "prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5), "cut_gradient": "topk(0.3)",
        "broadcast_share": 0.5, "smashed": "feedback(topk(0.3))", "participants": 2,
    },
    "u_shape": {
        "prune_kind": "mask", "prune_score": "random", "smashed": "dropout(0.2)|uniform(8)",
        "tail_input": "feedback(topk(0.3))", "tail_gradient": "feedback(topk(0.3)|uniform(8))",
        "cut_gradient_bits": 8, "model_up": "uniform(8)", "outage_snr_db": 3.0, "participants": 2,
        "personal": "logits", "proximal": 0.1,
    },
    "hierarchical": {
        "edges": 3, "cloud_every": 2, "server_at": "edge", "prune_kind": "channel",
        "prune_rate": (0.5, 0.0, 0.5), "model_up": "feedback(topk(0.3)|uniform(8))",
        "client_optimizer_state": "average", "edge_radius_m": "300,500,800",
    },
    "centralized": {"norm": "batch", "aggregation": "examples"},
}  # fmt: skip


def config(folder: Path, algorithm: str, **changes: Any) -> Config:
    settings = {**COMMON, **RIVALS[algorithm], **changes}
    return plain(algorithm=algorithm, workdir=str(folder), **settings)


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{**row, "host_seconds": ""} for row in csv.DictReader(file)]


class Interrupt(Hook):
    """Interrupts a run after round 3 has been logged."""

    def on_rows(self, rows: Any) -> None:
        if rows[-1]["round"] >= 3:
            raise KeyboardInterrupt


# They compile long.
MARKED = [name if name == "sfl_v1" else slow(name) for name in RIVALS]


@pytest.mark.parametrize("algorithm", MARKED)
def test_an_interrupted_run_goes_on_and_serves_evaluation_and_new_runs(
    algorithm: str, tmp_path: Path
) -> None:
    straight, stopped, tuned = (tmp_path / name for name in ("straight", "stopped", "tuned"))
    summary = training.train_setting(config(straight, algorithm))
    with pytest.raises(KeyboardInterrupt):
        training.train_setting(config(stopped, algorithm), [Interrupt()])
    training.train_setting(config(stopped, algorithm))
    rows = metrics(straight)
    assert metrics(stopped) == rows
    for name in ALGORITHMS[algorithm].reports:
        always = name == "missed_steps"
        assert {bool(row[name]) for row in rows} == {True, always}, "in some rounds, or in all"
    run = restore_run(straight)
    assert_equal(restore_run(stopped).state, run.state)

    result = evaluate_run(straight, tmp_path / "export")
    assert result["test_accuracy"] == pytest.approx(summary["final_accuracy"], rel=1e-6)
    images = np.random.default_rng(0).integers(0, 17, (4, *run.experiment.image.shape))
    logits = (load(folder).logits(images) for folder in (straight, tmp_path / "export"))
    assert_close(*logits)
    accuracies = result["clients"]["accuracy"]
    assert len(accuracies) == run.experiment.spec.clients

    # From the export, with nothing learnt: the model that the run came to.
    still = {"client_learning_rate": 0.0, "server_learning_rate": 0.0, "rounds": 1}
    dense = {"prune_kind": "none", "prune_rate": (0.3,), "init_from": str(tmp_path / "export")}
    training.train_setting(config(tuned, algorithm, **still, **dense))
    reached = [
        joined(r.experiment.spec, r.experiment.data.partition, r.state).params
        for r in (run, restore_run(tuned))
    ]
    assert_close(*reached)
