"""Settings compared over seeds: each run once, tables, figures, records, also after divergence."""

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import plain

from jfedsl.errors import TrainingError, UserError
from jfedsl.run.storage.metrics import Row
from jfedsl.studies import records, study
from jfedsl.studies.axes import MEGABYTES, ROUND, SECONDS, curves, points
from jfedsl.studies.columns import mean_and_range, to_target
from jfedsl.studies.configs import Changes, run_configs
from jfedsl.studies.report import write as report_of
from jfedsl.studies.study import Result, Study
from jfedsl.studies.sweep import conduct
from jfedsl.studies.tables import table

HALF: dict[str, Changes] = {
    "dense": {},
    "half of it": {"prune_kind": "channel", "prune_rate": (0.5,)},
}


def cells(line: str) -> list[str]:
    """The cells of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def made(one: Study, folder: Path) -> Result:
    """What a study without tuning gives, with the records in a folder."""
    return Result(study.train(one, {}, study.read_known(folder)), {})


def test_a_study_trains_every_setting_with_every_seed_once(tmp_path: Path) -> None:
    one = Study(plain(rounds=2, clients=2, workdir=str(tmp_path / "runs")), HALF, (0, 1))
    results = tmp_path / "results"
    result = made(one, results)
    outcomes = result.outcomes(one)
    assert [outcome.name for outcome in outcomes] == list(HALF)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["dense", "half_of_it"]
    assert all(len(outcome.summaries) == len(outcome.runs) == 2 for outcome in outcomes)
    text = study.write(one, result, results)
    assert (results / "table.md").read_text() == text + "\n"
    assert (results / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    head, _, dense, half = (cells(line) for line in text.splitlines()[:4])
    column = head.index("MFLOPs of a client, an example")
    # 64 * 256 multiply-adds forward and for the gradient by the weights.
    assert (dense[column], half[column]) == ("0.06554", "0.03277")
    *_, pairs, made_by = text.split("\n\n")
    titles, _, ratios = (cells(line) for line in pairs.splitlines())
    assert ratios[titles.index("MFLOPs of a client, an example, ratio")] == "0.5", "in both seeds"
    assert made_by.splitlines()[2].startswith("- 4 runs: commit ")
    final = [s["final_accuracy"] for s in outcomes[0].summaries if s]
    assert dense[1] == f"{sum(final) / 2:.4g} ({min(final):.4g} to {max(final):.4g})"


def test_records_stand_for_runs_that_were_deleted(tmp_path: Path, capsys) -> None:
    base = plain(rounds=3, clients=2, eval_every=1, workdir=str(tmp_path / "runs"))
    one = Study(base, HALF, (0,))
    results = tmp_path / "results"
    result = made(one, results)
    text = study.write(one, result, results)
    checkpoints = sorted(tmp_path.rglob("checkpoints/*/counters"))
    assert made(one, results) == result and sorted(tmp_path.rglob("counters")) == checkpoints
    shutil.rmtree(tmp_path / "runs")
    again = made(one, results)
    assert again == result, "to the digit"
    assert study.write(one, again, results) == text and not (tmp_path / "runs").exists()
    other = dataclasses.replace(one, base=dataclasses.replace(one.base, target_accuracy=0.05))
    assert made(other, results) == result, "no target makes a run train again"
    column = to_target("rounds")
    reached = [column(s) for o in result.outcomes(other) for s in o.summaries if s]
    assert reached == [1, 1], "the first evaluation of all is as good"
    longer = Study(plain(rounds=4, clients=2, workdir=str(tmp_path / "runs")), HALF, (0,))
    with pytest.raises(UserError, match="is not a finished run of 'dense'"):
        study.train(longer, {}, study.read_known(results, trains=False))
    (results / study.RECORDS).write_text("{}\n")
    with pytest.raises(UserError, match="line 1 of .*records.jsonl is not a record"):
        study.read_known(results)


def test_with_a_validation_set_tables_have_the_test_too(tmp_path: Path) -> None:
    base = plain(rounds=2, clients=2, validation_fraction=0.2, workdir=str(tmp_path / "study"))
    one = Study(base, {"dense": {}}, (0, 1))
    (outcome,) = made(one, tmp_path).outcomes(one)
    head, _, row = table([outcome], {}).splitlines()
    assert (
        head
        == "| setting | validation accuracy | deployed | test accuracy | test accuracy, deployed |"
    )
    known = [summary for summary in outcome.summaries if summary]
    values, judged = (
        mean_and_range([summary[name] for summary in known])
        for name in ("final_accuracy", "final_validation_accuracy")
    )
    assert row == f"| dense | {judged} | {judged} | {values} | {values} |" and values != judged
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
        study.check(Study(plain(), {"dense": {}}, (0,)))


def test_runs_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    base = plain(workdir=str(tmp_path))
    with pytest.raises(UserError, match="would share .*rate_0"):
        study.check(Study(base, {"rate 0": {}, "rate: 0": {}}, (0,)))
    with pytest.raises(UserError, match="would share"):
        study.check(Study(base, {"dense": {}}, (0, 0)))


def test_a_run_that_diverges_has_no_numbers_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: Changes = {"clients": 2, "rounds": 2, "eval_every": 1, "train_examples": 100}
    wild: Changes = {"client_learning_rate": 1e9, "server_learning_rate": 1e9, "rounds": 20}
    base = plain(**few, workdir=str(tmp_path))
    one = Study(base, {"wild": wild, "tame": {}}, (0,))
    result = made(one, tmp_path / "results")
    monkeypatch.setattr(records, "train_setting", pytest.fail)
    assert made(one, tmp_path / "others").records == result.records, "its folder says so too"
    bad, good = result.outcomes(one)
    assert bad.summaries == [None] and bad.runs == [[]] and len(good.runs[0]) == 2
    lines = study.write(one, result, tmp_path / "results").splitlines()
    assert set(lines[2].removeprefix("| wild").split()) == {"|", "-"}
    assert lines[3].startswith("| tame | 0.")
    assert (tmp_path / "results" / "accuracy.png").exists()
    assert made(one, tmp_path / "results").records == result.records, "known to have diverged"


def test_a_run_that_stops_at_a_full_disk_has_not_diverged(tmp_path: Path, monkeypatch) -> None:
    def full(_: object) -> None:
        raise TrainingError("checkpoint 1 cannot be written")

    monkeypatch.setattr(records, "train_setting", full)
    one = Study(plain(rounds=2, clients=2, workdir=str(tmp_path)), {"dense": {}}, (0,))
    with pytest.raises(TrainingError, match="cannot be written"):
        made(one, tmp_path / "results")


def test_curves_keep_the_evaluations_that_all_runs_have() -> None:
    def rows(*evaluated: int) -> list[Row]:
        return [
            {
                "round": n, "cumulative_bytes": n * 10**6,
                "test_accuracy": n / 10 if n in evaluated else None,
            }
            for n in range(1, 7)
        ]  # fmt: skip

    runs = [points(rows(2, 4, 6)), [], points(rows(3, 6))]
    assert curves(runs, [MEGABYTES, ROUND]) == [[(6, 6, 0.6)], [], [(6, 6, 0.6)]]
    assert np.isnan(curves(runs, [SECONDS])[0][0][0]) and curves([[]], [ROUND]) == [[]]


def test_long_and_odd_names_are_folders(tmp_path: Path) -> None:
    base = plain(workdir=str(tmp_path))
    names = ["snr=-5", "snr=5", "..", "+ pruning", "x" * 300, "x" * 299 + "y"]
    folders = [
        Path(c[0].workdir).parent for c in run_configs(base, {n: {} for n in names}, [0]).values()
    ]
    assert [f.name for f in folders[:4]] == ["snr=-5", "snr=5", "setting", "pruning"]
    assert all(len(f.name) < 120 and f.parent == tmp_path for f in folders)
