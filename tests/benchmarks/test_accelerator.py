"""The command that measures everything on an accelerator, on a CPU with tiny shapes."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import slow
from programs import PROGRAMS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ["device", "targets", "training", "numerics", "forms", "compilation", "chunks", "tests"]
# Programs are compiled fast, and once for all runs of tests; an hour, as machines may be slow.
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)


def finish(*arguments: str) -> str:
    process = start(*arguments)
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    return out


def check_lines(lines: list[dict[str, Any]]) -> None:
    """Everything was measured, and every number means something."""
    assert [line["note"] for line in lines if line["status"] != "measured"] == []
    for line in lines:
        assert line["measures"] and line["name"], line
        for measure in line["measures"]:
            may_be_zero = "error" in measure["quantity"] or "failed" in measure["quantity"]
            value, least = measure["value"], 0 if may_be_zero else 1e-9
            assert math.isfinite(value) and value >= least, (line["name"], measure)


def check_errors(lines: list[dict[str, Any]]) -> None:
    """Forms of convolutions and of int8 were compared, each in its directions."""
    errors = {
        f"{line['name']}, {measure['quantity']}": measure["value"]
        for line in lines
        if line["part"] == "numerics"
        for measure in line["measures"]
    }
    assert max(errors.values()) < 1e-5
    for name in ("float32, relative error, forward: tiles", "weight gradient: dense, long sums"):
        assert any(name in error for error in errors), name
    of_forms = [error for name, error in errors.items() if "convolutions" in name]
    assert len(of_forms) > 40 and min(of_forms) > 0


# What needs the fewest compilations stands for the rest in the quick suite.
@pytest.mark.parametrize("parts", [["device", "numerics", "chunks"], slow(PARTS)], ids=len)
def test_every_part_measures_something_real(parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    out = finish("--quick", "--minutes=60", f"--output={file}", f"--parts={','.join(parts)}")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(dict.fromkeys(line["part"] for line in lines)) == parts
    check_lines(lines)
    check_errors(lines)
    chunks = [line["facts"]["jfedsl"]["client_chunk"] for line in lines if line["part"] == "chunks"]
    assert chunks == [1, 4]
    table = out[out.index("\npart ") :]
    assert table.count("reached") >= 60
    for line in lines:
        assert all(measure["quantity"] in table for measure in line["measures"])
    assert finish(f"--show={file}").strip() in table


def test_a_run_that_is_killed_leaves_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    process = start("--quick", "--minutes=60", f"--output={file}", "--parts=training")
    deadline = time.monotonic() + 600
    while not (file.exists() and "bfloat16" in file.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # returns once the process that computes has ended too
    with file.open("a") as cut:
        cut.write('{"part": "training", "na')
    table = finish(f"--show={file}").splitlines()
    assert [line.split("  ")[0] for line in table] == ["part", *["device"] * 5]
    peaks = [float(line.split()[-1]) for line in table if "TFLOP/s" in line]
    assert len(peaks) == 3 and min(peaks) > 0


def test_what_has_too_little_time_is_skipped_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    out = finish("--minutes=0.1", f"--output={file}")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["status"] for line in lines} == {"skipped"}
    assert list(dict.fromkeys(line["part"] for line in lines)) == PARTS
    assert "training  main job" in out and "s are left for it, it takes about 30" in out


def test_the_plan_fits_eight_minutes_with_a_reserve_and_targets_come_first(script: Any) -> None:
    accelerator = script("accelerator")
    cases = accelerator.CASES
    assert 30 < 480 - accelerator.planned(cases) < 120
    assert [case.extra for case in cases] == sorted(case.extra for case in cases)
    parts = [case.part for case in cases if not case.extra]
    assert parts[0] == "device" and set(parts[1 : 1 + parts.count("targets")]) == {"targets"}


def test_a_case_may_take_twice_its_time_at_the_cost_of_later_ones(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, now = script("accelerator"), [0.0]

    class Worker:
        """One whose cases are numbers of seconds."""

        def entries(self, seconds: Any, _: Any, limit: float) -> Iterator[Any]:
            now[0] += min(seconds, limit)
            if seconds > limit:
                raise accelerator.Unfinished("stopped", f"{limit:.0f}")
            yield script("accelerator_report").Entry("it", [], {})

        def close(self) -> None: ...

    monkeypatch.setattr(accelerator, "Worker", Worker)
    monkeypatch.setattr(accelerator, "time", SimpleNamespace(monotonic=lambda: now[0]))
    takes = [(15, 10), (99, 10), (5, 60), (5, 60), (5, 30)]  # and what was planned
    cases = [accelerator.Case("part", "", seconds, plan) for seconds, plan in takes]
    found = list(accelerator.lines(cases, accelerator.Settings(True, 2), 55))
    assert [line["status"] for line in found] == [
        "measured", "stopped", "measured", "skipped", "measured",
    ]  # fmt: skip
    assert found[1]["note"] == "20"
    (longer,) = accelerator.lines(cases[1:2], accelerator.Settings(True, 2), 3600)
    assert longer["status"] == "measured", "more minutes mean more patience"


@pytest.mark.parametrize("rounds", [slow("small"), slow("pfl_workload")])
def test_rounds_are_timed_against_pytorch(rounds: str, script: Any) -> None:
    pytest.importorskip("torch")
    module, worker = script("accelerator_rounds"), script("accelerator_worker")
    (entry,) = getattr(module, rounds)(worker.Settings(True, 3, against_torch=True))
    assert entry.facts["torch"]["framework"] == "torch"
    assert [m.value > 0 for m in entry.measures if "over torch" in m.quantity] == [True]


def test_a_part_that_does_not_exist_is_refused() -> None:
    process = start("--parts=forms,kernels")
    assert "--parts=kernels: there are device, targets, training," in process.communicate()[1]
    assert process.returncode == 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks that has no flags."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def fails(_: Any) -> Iterator[Any]:
    raise ValueError("too large\nfor the device")


def waits(_: Any) -> Iterator[Any]:
    time.sleep(3600)
    yield


def test_a_case_that_fails_or_hangs_ends_alone(script: Any) -> None:
    worker_module = script("accelerator_worker")
    worker, settings = worker_module.Worker(), worker_module.Settings(True, 2)
    try:
        with pytest.raises(worker_module.Unfinished, match="ValueError: too large$") as failed:
            list(worker.entries(fails, settings, 600))
        with pytest.raises(worker_module.Unfinished, match="longer than its 1 s") as stopped:
            list(worker.entries(waits, settings, 1))
        assert (failed.value.status, stopped.value.status) == ("failed", "stopped")
    finally:
        worker.close()


def test_tests_that_run_on_the_device_exist(script: Any) -> None:
    folder = BENCHMARKS.parent / "tests"
    tests = script("accelerator_runs").TESTS
    assert sum(map(len, tests.values())) == 20
    for file, names in tests.items():
        text = (folder / f"{file}.py").read_text()
        assert all(f"def {name}(" in text for name in names), file
