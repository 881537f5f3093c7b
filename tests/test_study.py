"""Settings compared over seeds: a run each, a table, a picture, and again from where it was."""

from pathlib import Path

import pytest
from helpers import plain

from jfedsl.errors import UserError
from jfedsl.study import compare, megabytes, report


def test_a_study_trains_every_setting_with_every_seed_once(tmp_path: Path) -> None:
    base = plain(rounds=2, clients=2, workdir=str(tmp_path))
    settings = {"dense": {}, "half of it": {"prune_kind": "channel", "prune_rate": (0.5,)}}
    outcomes = compare(base, settings, (0, 1))
    assert [outcome.name for outcome in outcomes] == list(settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense", "half_of_it"]
    assert all(len(outcome.summaries) == len(outcome.curves) == 2 for outcome in outcomes)
    columns = {
        "MB": megabytes("model_up"),
        "MFLOPs": lambda summary: summary["client_flops"]["pruned"] / 1e6,
    }
    text = report(base, outcomes, columns, "title")
    assert (tmp_path / "table.md").read_text() == text + "\n"
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    dense, half = text.splitlines()[2:]
    final = [s["final_accuracy"] for s in outcomes[0].summaries]
    assert f"| dense | {sum(final) / 2:.4f} ({min(final):.4f} to {max(final):.4f}) |" in dense
    # 64 * 256 multiply-adds forward and for the gradient by the weights.
    assert dense.endswith("| 0.06554 |") and half.endswith("| 0.03277 |")
    checkpoints = sorted(tmp_path.rglob("checkpoints/*/counters"))
    again = compare(base, {"dense": {}}, (0,))
    assert again[0].summaries[0]["host_seconds"] == outcomes[0].summaries[0]["host_seconds"]
    assert sorted(tmp_path.rglob("checkpoints/*/counters")) == checkpoints, "nothing ran again"


def test_a_study_needs_a_folder() -> None:
    with pytest.raises(UserError, match="--workdir=: allowed is a folder for the study"):
        compare(plain(), {"dense": {}}, (0,))


def test_runs_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    base = plain(workdir=str(tmp_path))
    with pytest.raises(UserError, match="would share .*rate_0_1"):
        compare(base, {"rate 0.1": {}, "rate 0 1": {}}, (0,))
    with pytest.raises(UserError, match="would share"):
        compare(base, {"dense": {}}, (0, 0))
