"""Scripts as a user starts them: in a process of their own, killed, mistyped, twice at once."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slow
from programs import PROGRAMS

from jfedsl.config import Config

ROOT = Path(__file__).parents[1]
TRAIN = [sys.executable, str(ROOT / "experiments" / "train.py")]
TINY = [
    "--model=mlp", "--norm=none", "--clients=3", "--rounds=9", "--local_steps=2",
    "--batch_size=8", "--eval_every=4", "--checkpoint_every=1", "--partition=iid",
    f"--compilation_cache={PROGRAMS}",
]  # fmt: skip


def start(*arguments, cwd=None):
    return subprocess.Popen(
        [*TRAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )


def finish(*arguments, cwd=None):
    process = start(*arguments, cwd=cwd)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def metrics(workdir):
    with open(workdir / "metrics.csv", newline="") as file:
        return [{**row, "host_seconds": ""} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    status, out, error = finish(*TINY, f"--workdir={workdir}")
    assert status == 0, error
    assert "test accuracy" in out and "round 9/9" in out
    return workdir


def kill_during_a_save(workdir, after):
    """Starts or resumes the run and kills it in the middle of a save past round `after`."""
    process = start(*TINY, f"--workdir={workdir}")
    folder = workdir / "checkpoints"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        saving = [int(n.split(".")[0]) for n in names if not n.isdigit()]
        if saving and max(saving) > after:
            break
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it must not have finished"


def check_killed_run(straight, workdir, kills):
    for after in kills:
        kill_during_a_save(workdir, after)
    status, _, error = finish(*TINY, f"--workdir={workdir}")
    assert status == 0, error
    assert metrics(workdir) == metrics(straight)


def test_killed_during_saves_the_run_continues_to_the_same_metrics(straight, tmp_path):
    check_killed_run(straight, tmp_path / "killed", kills=(5,))


@pytest.mark.slow
def test_killed_many_times(straight, tmp_path):
    check_killed_run(straight, tmp_path / "killed", kills=range(7))


@pytest.mark.slow
def test_killed_at_any_moment(straight, tmp_path):
    for i in range(12):
        workdir = tmp_path / f"killed{i}"
        process = start(*TINY, f"--workdir={workdir}")
        time.sleep(1.0 + 0.4 * i)
        process.kill()
        process.communicate()
        status, _, error = finish(*TINY, f"--workdir={workdir}")
        assert status == 0, error
        assert metrics(workdir) == metrics(straight)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--partiton=iid", "unknown flag --partiton; did you mean --partition?"),
        slow("--dropout_rate=1.5", "error: --dropout_rate must be a rate in [0, 1) (or one"),
        slow("--cut=nowhere", "error: --cut must be one of conv1, pool1"),
        slow("--no_such_flag=1", "unknown flag --no_such_flag"),
        slow("--rounds=many", "error: --rounds must be a whole number from 1 to"),
        slow("rounds=3", "unexpected argument 'rounds=3'"),
    ],
)
def test_a_wrong_command_line_prints_one_line_and_makes_nothing(tmp_path, flag, text):
    status, out, error = finish(flag, cwd=tmp_path)
    assert status == 2 and out == ""
    assert text in error and error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_explains_the_flags_that_matter_or_every_flag():
    status, out, _ = finish("--help")
    assert status == 0 and f"python {TRAIN[1]} --workdir=runs/first" in out
    assert "--prune_rate" in out and "--learning_rate_schedule" not in out
    status, out, _ = finish("--help=all")
    assert status == 0
    for field in dataclasses.fields(Config):
        assert re.search(rf"^  --(\[no\])?{field.name}\b", out, re.MULTILINE), field.name


@pytest.mark.slow
def test_diverging_prints_one_line_and_fails(tmp_path):
    rates = ["--client_learning_rate=1e9", "--server_learning_rate=1e9"]
    status, _, error = finish(*TINY, *rates, f"--workdir={tmp_path / 'run'}")
    assert status == 1 and "Traceback" not in error
    assert error.startswith("error: round ") and "is not finite" in error


def evaluate(*arguments, cwd=None):
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow  # CI evaluates a run by the command
def test_evaluating_a_run_and_starting_from_its_export(straight, tmp_path):
    before = metrics(straight)
    export = tmp_path / "export"
    status, out, error = evaluate(f"--workdir={straight}", f"--export_dir={export}")
    assert status == 0 and error == ""
    result = json.loads((straight / "evaluation.json").read_text())
    assert f"test accuracy               {result['test_accuracy']:.4f}" in out
    assert len(result["clients"]["accuracy"]) == 3 and "over 3 of 3 clients" in out
    assert float(before[-1]["test_accuracy"]) == pytest.approx(result["test_accuracy"], rel=1e-6)
    assert metrics(straight) == before
    status, out, error = finish(*TINY, f"--init_from={export}", f"--workdir={tmp_path / 'tuned'}")
    assert status == 0, error
    first = metrics(tmp_path / "tuned")[0]
    assert float(first["train_loss"]) < 0.2 * float(before[0]["train_loss"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workdir=nowhere"], "--workdir must be the workdir of a run"),
        slow([], "--workdir must be the workdir of a run with a checkpoint"),
        slow(["--cut=pool1"], "unknown flag --cut"),
    ],
)
def test_a_wrong_evaluation_prints_one_line_and_makes_nothing(tmp_path, arguments, text):
    status, out, error = evaluate(*arguments, cwd=tmp_path)
    assert status == 2 and out == ""
    assert text in error and error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_a_workdir_is_refused_and_interrupting_says_how_to_go_on(tmp_path):
    process = start(*TINY, "--rounds=5000", f"--workdir={tmp_path / 'run'}")
    rows = tmp_path / "run" / "metrics.csv"
    while process.poll() is None and not (rows.exists() and rows.read_text().count("\n") > 1):
        time.sleep(0.01)
    status, _, error = finish(*TINY, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "a folder that no other run is using" in error
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143
    match = re.fullmatch(
        r"error: interrupted after round (\d+); checkpoint saved; go on with: (.*)\n", error
    )
    assert match and (tmp_path / "run" / "checkpoints" / match[1]).is_dir()
    free = f"--compilation_cache={PROGRAMS} --eval_every=4 --checkpoint_every=1"
    assert match[2] == f"python {TRAIN[1]} --resume={tmp_path / 'run'} {free}"


SWEEP = [sys.executable, str(ROOT / "experiments" / "sweep.py")]


def results(workdir):
    with open(workdir / "results.csv", newline="") as file:
        return [row["state"] for row in csv.DictReader(file)]


@pytest.mark.slow  # interrupted in one process: tests/studies/test_sweep.py
def test_a_sweep_interrupted_in_the_middle_goes_on(tmp_path):
    workdir = tmp_path / "sweep"
    longer = ["--rounds=60", "--eval_every=10", "--checkpoint_every=10", "--train_examples=300"]
    grid = ["--vary=cut=dense1 dense2", "--seeds=5"]
    command = [*SWEEP, *TINY, *longer, *grid, f"--workdir={workdir}"]
    rows = workdir / "cut=dense2" / "seed_5" / "metrics.csv"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (rows.exists() and rows.read_text().count("\n") > 10):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and error.startswith("error: interrupted after round ")
    assert results(workdir) == ["finished", "not finished"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1/2 cut=dense1, seed 5: training" not in done.stdout
    assert "2/2 cut=dense2, seed 5: training" in done.stdout
    assert results(workdir) == ["finished", "finished"]
    assert [int(row["round"]) for row in metrics(rows.parent)] == list(range(1, 61))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--vary=prune_rat=0 0.3", "error: --vary must be a flag of a run"),
        slow("--shard=3/2", "error: --shard must be i/n with i from 1 to n, not 3/2"),
        slow("--seed=3", "error: --seed=3 is for one run; set --seeds=3"),
    ],
)
def test_a_wrong_grid_prints_one_line_and_makes_nothing(tmp_path, flag, text):
    command = [*SWEEP, "--workdir=sweep", flag]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert text in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
