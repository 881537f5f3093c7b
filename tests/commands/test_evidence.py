"""All studies again: tasks of processes, results, and recorded runs trained anew."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from jfedsl.commands import evidence as command
from jfedsl.commands import evidence_tasks
from jfedsl.commands.evidence_tasks import BOUNDS, CASES, STEPS, Evidence, Task, names_of
from jfedsl.config import Config
from jfedsl.errors import TrainingError, UserError
from jfedsl.models.layers import Variables
from jfedsl.run.pilot import Pilot, Prediction
from jfedsl.run.presets import presets
from jfedsl.studies import bound_prediction, records, study
from jfedsl.studies.bound_prediction import PILOT, PREDICTED, PREDICTIONS
from jfedsl.studies.records import Record, flags_of, write_records
from jfedsl.theory.bound import Terms

ROOT = Path(__file__).parents[2]
FILE = """# python experiments/cases_study.py
--model=mlp
--norm=none
--clients=2
--rounds=2
--local_steps=1
--train_examples=200
--validation_fraction=0.2
--network=none
--dropout_rate=0
--client_learning_rate=0.2
--server_learning_rate=0.2
--tries=3
--seeds=0,1
--case=plain: --prune_kind=none
--case=pruned: --prune_rate=0.5
--follow=plain: pruned
"""

HOLDS = {
    "verdict": "holds", "bound": 2.0, "average": 1.0, "with_one_beta": 9.0, "steepness": 0.5,
    "terms": dict.fromkeys(Terms._fields, 0.25),
}  # fmt: skip


def test_every_study_has_a_file() -> None:
    own = presets(False).keys() - presets(True).keys()
    assert {*CASES, *BOUNDS, "source_claims_cifar10"} == own
    assert names_of([]) == [*CASES, *BOUNDS] and names_of(["quorum", "digits"]) == [
        "digits", "quorum",
    ]  # fmt: skip
    with pytest.raises(UserError, match="--only must be some of .*, not digit; did you mean"):
        names_of(["digit"])


@pytest.fixture(name="evidence")
def _evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """The evidence of one small study, with the flags that processes would get."""
    file = tmp_path / "small.flags"
    file.write_text(FILE)
    monkeypatch.setattr(evidence_tasks, "presets", lambda _: {"small": file})
    return Evidence(["small"], tmp_path / "runs", tmp_path / "results", ["--progress=none"])


def test_tasks_give_results_and_recorded_runs_come_out_again(evidence: Evidence) -> None:
    assert evidence.refused() == {}
    tasks = {step: list(evidence.tasks(step)) for step in STEPS}
    assert tasks["tune"] == [Task("small", "plain")], "pruned follows"
    assert tasks["train"] == [Task("small", "plain"), Task("small", "pruned")]
    with pytest.raises(UserError, match="is not a finished run of 'plain, rates x 1'"):
        evidence.write("small")
    for step in STEPS:
        for task in tasks[step]:
            evidence.do(step, task)
    evidence.write("small")
    results = evidence.results / "small"
    written = {path.name: path.read_text() for path in results.glob("*.[jm]*")}
    assert {*written} == {study.TABLE, study.RECORDS, study.TRIES}
    shutil.rmtree(evidence.workdir)
    evidence.write("small")
    assert written == {path.name: path.read_text() for path in results.glob("*.[jm]*")}
    assert evidence.compare(1, seed=0) == [], "trained anew, the same digits"
    lines = [json.loads(line) for line in written[study.RECORDS].splitlines()]
    for line in lines:
        line["summary"]["bytes"]["model_up"] += 10**6
    (results / study.RECORDS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    elsewhere = dataclasses.replace(evidence, results=evidence.workdir / "nothing")
    for task in tasks["train"]:  # what lies in the folders of runs is no record
        elsewhere.do("train", task)
    recorded, again = evidence.compare(1, seed=0)
    assert recorded.startswith("recorded: | ") and again.startswith("again:    | ")
    assert recorded.split(" | ")[1:4] == again.split(" | ")[1:4]


def test_a_study_of_the_bound_is_trained_unless_it_is_recorded(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.flags").write_text("--measure_constants_every=2\n--seeds=0\n")
    monkeypatch.setattr(evidence_tasks, "BOUNDS", ("small",))
    task = Task("small", "")
    assert [list(evidence.tasks(step)) for step in STEPS] == [[], [task]]
    with pytest.raises(UserError, match="the bound of .* was not predicted from this pilot yet"):
        evidence.write("small")
    nothing = Variables((), ())
    prediction = Prediction(3.0, {"initial_gap": 3.0}, 0.5)
    monkeypatch.setattr(
        bound_prediction, "run_pilot", lambda config: Pilot(config, nothing, nothing, [])
    )
    monkeypatch.setattr(bound_prediction, "measure_setting", lambda *_: [{"round": 0}])
    monkeypatch.setattr(bound_prediction, "predict", lambda *_: prediction)
    trained: list[Config] = []

    def train_setting(config: Config) -> None:
        trained.append(config)
        raise UserError("enough")

    monkeypatch.setattr(records, "train_setting", train_setting)
    with pytest.raises(UserError, match="enough"):
        evidence.do("train", task)
    assert len(trained) == 1 and trained[0].seed == 0
    one = evidence.bound_study("small")
    runs = [(name, runs[0]) for name, runs in one.settings.runs.items()]
    runs.append((PILOT, one.plan.config(one.base)))
    folder = evidence.results / "small"
    lines = [Record(name, flags_of(run), {"convergence": HOLDS}, []) for name, run in runs]
    write_records(folder / study.RECORDS, lines)
    evidence.do("train", task)
    assert len(trained) == 1, "all are recorded"
    evidence.write("small")
    assert "| prune rate 0.8 | 1 | 3 | 2 |" in (folder / study.TABLE).read_text()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {*written} == {
        study.TABLE, study.RECORDS, PREDICTIONS, PREDICTED, "bound.png",
    }  # fmt: skip
    shutil.rmtree(evidence.workdir)
    evidence.do("train", task)
    evidence.write("small")
    assert written == {path.name: path.read_bytes() for path in folder.iterdir()}
    for flag, text in {
        "--cuts=nowhere": "--cut must be",
        "--seeds=1000": "--pilot_seed must ",
    }.items():
        wrong = dataclasses.replace(evidence, extra=[flag])
        assert wrong.refused()["small"].startswith(text)


def test_a_study_with_a_run_that_diverges_is_written(evidence: Evidence, tmp_path: Path) -> None:
    wild = "--case=wild: --prune_kind=none --client_learning_rate=1e9 --server_learning_rate=1e9"
    text = FILE.replace(
        "--follow=plain: pruned", f"{wild} --rounds=20\n--follow=plain: pruned; wild"
    )
    (tmp_path / "small.flags").write_text(text)
    for step in STEPS:
        for task in evidence.tasks(step):
            evidence.do(step, task)
    evidence.write("small")
    table = (evidence.results / "small" / study.TABLE).read_text()
    assert "| wild | - | - |" in table and "| plain | 0." in table


def test_errors_name_the_study(evidence: Evidence) -> None:
    for flag, text in {
        "--rounds=0": "study small: --rounds must be",
        "rounds=3": "study small: --set must be a flag, --name=value, not rounds=3",
    }.items():
        wrong = Evidence(["small"], evidence.workdir, evidence.results, [flag])
        assert wrong.refused()["small"].startswith(text)
    with pytest.raises(UserError, match="--results must be a folder with results to compare with"):
        evidence.compare(1, 0)


def test_a_study_that_cannot_be_made_leaves_the_others(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    files = {name: tmp_path / f"{name}.flags" for name in ("small", "wrong")}
    files["wrong"].write_text("--rounds=0\n")
    monkeypatch.setattr(evidence_tasks, "presets", lambda _: files)
    steps = []
    monkeypatch.setattr(command, "_spawn", lambda step, names, _: steps.append((step, names)))
    text = r"not finished: wrong \(study wrong: --rounds must .*\); small \(.* no record\)"
    with pytest.raises(TrainingError, match=text):
        command.make(dataclasses.replace(evidence, names=list(files)), 1)
    assert steps == [(step, ["small"]) for step in STEPS]
    assert "wrong is left out: study wrong: --rounds must be" in capsys.readouterr().out
    with pytest.raises(UserError, match="study wrong: --rounds must be"):
        command.make(dataclasses.replace(evidence, names=["wrong"]), 1)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--again=-1", "--again must be at least 0, not -1"),
        ("--shard=1/2", "--shard=1/2 has no effect without --step"),
        ("--pages=README.mb", "--pages must be files that are there, not README.mb"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_trained(flag: str, text: str, tmp_path) -> None:
    values = flags.FlagValues()
    command.define(values)
    values(["evidence", f"--workdir={tmp_path}", flag])
    with pytest.raises(UserError, match=text):
        command.main(values)


@pytest.mark.slow
def test_the_command_makes_a_study_in_two_processes(tmp_path: Path) -> None:
    few = ("--rounds=2", "--seeds=0,1", "--tries=3", "--local_steps=1", "--train_examples=300")
    command = [
        sys.executable, "experiments/evidence.py", "--only=digits", f"--workdir={tmp_path}",
        *(f"--set={flag}" for flag in few),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| with int8 | 0." in (tmp_path / "results" / "digits" / "table.md").read_text()
    again = subprocess.run(
        [*command, "--again=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0 and "the same digits as recorded" in again.stdout
