"""All studies again: tasks of processes, results, and recorded runs trained anew."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jfedsl.commands import evidence_tasks
from jfedsl.commands.evidence_tasks import BOUNDS, CASES, STEPS, Evidence, Task, names_of
from jfedsl.errors import UserError
from jfedsl.run.presets import presets
from jfedsl.studies import study

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
    evidence.check()
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
    recorded, again = evidence.compare(1, seed=0)
    assert recorded.startswith("recorded: | ") and again.startswith("again:    | ")
    assert recorded.split(" | ")[1:4] == again.split(" | ")[1:4]


def test_errors_name_the_study(evidence: Evidence) -> None:
    wrong = Evidence(["small"], evidence.workdir, evidence.results, ["--rounds=0"])
    with pytest.raises(UserError, match="study small: --rounds must be"):
        wrong.check()
    with pytest.raises(UserError, match="--results must be a folder with results to compare with"):
        evidence.compare(1, 0)


@pytest.mark.slow
def test_the_command_makes_a_study_in_two_processes(tmp_path: Path) -> None:
    few = ("--rounds=2", "--seeds=0,1", "--tries=3", "--local_steps=1", "--train_examples=300")
    command = [
        sys.executable, "experiments/evidence.py", "--only=digits", f"--workdir={tmp_path}",
        *(f"--set={flag}" for flag in few),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| light, int8 | 0." in (tmp_path / "results" / "digits" / "table.md").read_text()
    again = subprocess.run(
        [*command, "--again=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0 and "the same digits in 1 runs" in again.stdout
