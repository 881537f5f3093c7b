"""Settings compared over seeds: each run once, a table and a figure, also after divergence."""

import csv
from pathlib import Path

import pytest
from helpers import plain

from jfedsl.errors import UserError
from jfedsl.run.storage.metrics import Row
from jfedsl.studies.axes import ROUND, curves
from jfedsl.studies.columns import mean_and_range, megabytes
from jfedsl.studies.report import write as report_of
from jfedsl.studies.study import Changes, compare, report, run_configs
from jfedsl.studies.sweep import conduct
from jfedsl.studies.tables import table


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
    dense, half = text.splitlines()[2:4]
    pairs, made = text.split("\n\n")[-2:]
    assert pairs.endswith("| 0.5 |"), "half of the FLOPs, in both seeds"
    assert made.splitlines()[2].startswith("- 4 runs: commit ")
    final = [s["final_accuracy"] for s in outcomes[0].summaries]
    assert f"| dense | {sum(final) / 2:.4g} ({min(final):.4g} to {max(final):.4g}) |" in dense
    # 64 * 256 multiply-adds forward and for the gradient by the weights.
    assert dense.endswith("| 0.06554 |") and half.endswith("| 0.03277 |")
    checkpoints = sorted(tmp_path.rglob("checkpoints/*/counters"))
    again = compare(base, {"dense": {}}, (0,))
    assert again[0].summaries[0]["host_seconds"] == outcomes[0].summaries[0]["host_seconds"]
    assert sorted(tmp_path.rglob("checkpoints/*/counters")) == checkpoints, "nothing ran again"


def test_with_a_validation_set_tables_have_the_test_too(tmp_path: Path) -> None:
    base = plain(rounds=2, clients=2, validation_fraction=0.2, workdir=str(tmp_path / "study"))
    (outcome,) = compare(base, {"dense": {}}, (0, 1))
    head, _, row = table([outcome], {}).splitlines()
    assert head == "| setting | validation accuracy | deployed | test accuracy |"
    known = [summary for summary in outcome.summaries if summary]
    values, judged = (
        mean_and_range([summary[name] for summary in known])
        for name in ("final_accuracy", "final_validation_accuracy")
    )
    assert row == f"| dense | {judged} | {judged} | {values} |" and values != judged
    _, text = report_of([tmp_path / "study"], tmp_path / "report", "title", None)
    lines = text.read_text().splitlines()
    titles = next(line for line in lines if "| test accuracy |" in line).split(" | ")
    cells = lines[lines.index(" | ".join(titles)) + 2].split(" | ")
    assert cells[titles.index("test accuracy")] == values
    conduct(base, {"dense": {}, "batch_size=4": {"batch_size": 4}}, [0, 1], (1, 2))
    first, *_ = csv.DictReader((tmp_path / "study" / "results.csv").read_text().splitlines())
    for name in ("final_accuracy", "final_validation_accuracy", "best_validation_accuracy"):
        assert float(first[name]) == known[0][name]


def test_a_study_needs_a_folder() -> None:
    with pytest.raises(UserError, match="--workdir must be a folder for the study"):
        compare(plain(), {"dense": {}}, (0,))


def test_runs_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    base = plain(workdir=str(tmp_path))
    with pytest.raises(UserError, match="would share .*rate_0"):
        compare(base, {"rate 0": {}, "rate: 0": {}}, (0,))
    with pytest.raises(UserError, match="would share"):
        compare(base, {"dense": {}}, (0, 0))


def test_a_run_that_diverges_has_no_numbers_and_the_others_go_on(tmp_path: Path) -> None:
    few: Changes = {"clients": 2, "rounds": 2, "eval_every": 1, "train_examples": 100}
    wild: Changes = {"client_learning_rate": 1e9, "server_learning_rate": 1e9, "rounds": 20}
    base = plain(**few, workdir=str(tmp_path))
    bad, good = compare(base, {"wild": wild, "tame": {}}, (0,))
    assert bad.summaries == [None] and bad.curves == [[]]
    assert len(good.curves[0]) == 2
    lines = report(base, [bad, good], {"rounds": lambda s: s["rounds"]}, "title").splitlines()
    assert lines[2] == "| wild | - | - | - |" and lines[3].endswith("| 2 |")
    assert (tmp_path / "accuracy.png").exists()


def test_curves_keep_the_evaluations_that_all_runs_have() -> None:
    def rows(*evaluated: int) -> list[Row]:
        return [
            {"round": n, "test_accuracy": n / 10 if n in evaluated else None} for n in range(1, 7)
        ]

    assert curves([rows(2, 4, 6), [], rows(3, 6)], [ROUND]) == [[(6, 0.6)], [], [(6, 0.6)]]
    assert curves([[]], [ROUND]) == [[]]


def test_long_and_odd_names_are_folders(tmp_path: Path) -> None:
    base = plain(workdir=str(tmp_path))
    names = ["snr=-5", "snr=5", "..", "+ pruning", "x" * 300, "x" * 299 + "y"]
    folders = [
        Path(c[0].workdir).parent for c in run_configs(base, {n: {} for n in names}, [0]).values()
    ]
    assert [f.name for f in folders[:4]] == ["snr=-5", "snr=5", "setting", "pruning"]
    assert all(len(f.name) < 120 and f.parent == tmp_path for f in folders)
