"""One training on any number of devices and processes."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PLAIN, parse, plain
from hypothesis import given
from hypothesis import strategies as st
from on_meshes import summands
from programs import PROGRAMS
from scripted_cuts import CHOOSES

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run import training
from jfedsl.run.processes import distributed
from jfedsl.sharding.collectives import pack, unpack

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "model": "mlp", "norm": "none", "train_examples": 300, "test_examples": 100, "rounds": 3,
    "local_steps": 2, "batch_size": 4, "partition": "iid", "progress": "none", "clients": 12,
    "participants": 5,
}  # fmt: skip
ALL: list[list[int] | None] = [None, [1, 2], [2, 2]]

# Uncompressed: a sum in another order may bring an entry to another level of a quantizer.
EXACT: dict[str, Any] = {
    "smashed_bits": 32, "cut_gradient_bits": 32, "client_gradient_bits": 32,
}  # fmt: skip

# Runs on meshes. 5 participants on 2 or 4 devices leave padding slots.
CASES: dict[str, dict[str, Any]] = {
    "fedsl": {},
    "channel": {
        "prune_kind": "channel", "prune_policy": "by_resource", "client_capacity": "0.25-1",
        "clients": 6, "participants": None, "prune_ladder": (1.0, 0.5), "validation_fraction": 0.2,
    },
    "fedavg": {"algorithm": "fedavg"},
    "mixed cuts": {"cut": "dense1-dense2", **EXACT},
}  # fmt: skip
PACKED: dict[str, dict[str, Any]] = {
    "fedsl packed": {"collective_bits": 8},
    "fedavg packed": {"algorithm": "fedavg", "collective_bits": 8},
}
SLOW: dict[str, dict[str, Any]] = {
    "outage": {"algorithm": "sfl_v2", "server_order": "exchange", "outage_snr_db": 5.0},
    "sfl_v1": {"algorithm": "sfl_v1"},
    "sfl_v1, outage": {
        "algorithm": "sfl_v1", "outage_snr_db": 5.0, "fading_memory": 0.9, "device_speed": 20.0,
        "network_seed": 5,
    },
    "deadline": {"outage_snr_db": 5.0, "deadline_s": 0.5},
    "averaged moments": {"client_optimizer_state": "average"},
    "averaged Adam, outage": {
        "client_optimizer_state": "average", "optimizer": "adam", "outage_snr_db": 5.0,
        "client_learning_rate": 0.001, "server_learning_rate": 0.001,
    },
    "taylor": {"prune_score": "taylor", "prune_rate": (0.3,)},
    "sparse kernels": {"mask_compute": "ideal"},
    "local statistics": {
        "algorithm": "fedavg", "norm": "batch", "batch_norm_statistics": "local",
    },
    "batch norm": {"norm": "batch", "participants": 4},
    "batch norm, padding slots": {"norm": "batch"},
    "batch norm, in turn": {
        "norm": "batch", "algorithm": "sfl_v2", "server_order": "exchange",
    },
    "compressed models": {
        "optimizer": "adam", "client_learning_rate": 0.001, "server_learning_rate": 0.001,
        "model_up": "feedback(topk(0.2))", "model_down": "uniform(8)",
    },
    "stateless": {"client_state": "stateless"},
    "personal layers": {"cut": "dense2", "personal": "dense1", "proximal": 0.1, **EXACT},
    "remat": {"remat_clients": True},
    "full participation": {"participants": None, "clients": 5},
    "crop and flip": {"model": "cnn", "norm": "group", "augment": "crop_flip"},
    "int8": {"client_backward": "int8"},
    "four widths": {**CASES["channel"], "prune_ladder": (1.0, 0.75, 0.5, 0.25)},
    "convolutions": {"model": "cnn", "norm": "group"},
    "u_shape, batch norm, padding slots": {"algorithm": "u_shape", "norm": "batch"},
    "mixed cuts, batch norm": {"cut": "dense1-dense2", "norm": "batch", **EXACT},
    "hierarchical": {
        "algorithm": "hierarchical", "clients": 6, "participants": None, "edges": 3,
        "cloud_every": 2, "server_at": "edge", **EXACT,
    },
    "u_shape, outage": {"algorithm": "u_shape", "outage_snr_db": 5.0, "deadline_s": 0.5},
}  # fmt: skip
SLOW |= {
    name: {"algorithm": name}
    for name, algorithm in ALGORITHMS.items()
    if name not in CASES | SLOW and not algorithm.one_at_a_time(Config(algorithm=name))
}


QUICK = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"
}  # fmt: skip


def child_environment(devices: int = 1) -> dict[str, str]:
    """Environment of a process with virtual devices, which compiles quickly."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, **QUICK}


def ask(request: dict[str, Any]) -> Any:
    """The answer of tests/on_meshes.py."""
    command = [sys.executable, str(ROOT / "tests" / "on_meshes.py")]
    done = subprocess.run(
        [*command, json.dumps({"cache": str(PROGRAMS), **request})], capture_output=True, text=True,
        timeout=900, env=child_environment(4),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def wanted(cases: dict[str, dict[str, Any]], meshes: list[list[int] | None]) -> dict[str, Any]:
    return {n: {"config": {**SMALL, **c}, "meshes": meshes} for n, c in cases.items()}


@pytest.fixture(scope="module")
def answers() -> Any:
    """Runs and sums that the quick tests share."""
    train = wanted(CASES, [None, [2, 2]]) | wanted(PACKED, [[2, 2]])
    return ask({"train": train, "sums": {"bits": SUM_BITS, "meshes": SUM_MESHES}})


def check_same(run: dict[str, Any], expected: dict[str, Any]) -> None:
    assert run["integers"] == expected["integers"]
    assert sum(map(np.sum, expected["integers"].values())) > 0
    for name, value in expected["floats"].items():
        # Not to the bit: sums over clients are added up in another order.
        np.testing.assert_allclose(run["floats"][name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(run["params"], expected["params"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_any_mesh_trains_as_one_device_does(answers: Any, name: str) -> None:
    alone, *spread = answers["train"][name].values()
    assert (
        alone["padding_slots"] == 0 and spread and all(run["padding_slots"] > 0 for run in spread)
    )
    assert (alone["groups"] > 1) == (name in ("channel", "mixed cuts"))
    assert bool(alone["params"]) == (name == "mixed cuts")
    losses = alone["floats"]["train_loss"]
    assert losses[-1] < losses[0] and "metric_dense" in alone["floats"]
    for run in spread:
        check_same(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_any_mesh_trains_as_one_device_does_in_every_way(name: str) -> None:
    runs = ask({"train": wanted({name: SLOW[name]}, ALL)})["train"][name]
    alone, *spread = runs.values()
    for run in spread:
        check_same(run, alone)
    if name == "full participation":  # the gradient, the models, the record
        assert [run["messages"] for run in runs.values()] == [0, 3, 3]
    if name == "outage":
        reachable = np.array(alone["integers"]["reachable"])
        assert 0 < reachable.mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {}, {"client_optimizer_state": "average"},
    {"participants": 3, "smashed_bits": None, "smashed": "feedback(topk(0.3))"},
])  # fmt: skip
def test_a_run_whose_cuts_change_is_that_on_one_device(changes: dict[str, Any]) -> None:
    case = {"config": {**PLAIN, **CHOOSES, **changes}, "devices": [1, 2]}
    runs = ask({"recut": {"run": case}})["recut"]["run"]
    alone = runs[0]
    assert len(alone["cuts"]) == 3 and alone["losses"][-1] < alone["losses"][0]
    for run in runs[1:]:
        assert all(run[n] == alone[n] for n in ("cuts", "bytes", "uncompressed_bytes"))
        np.testing.assert_allclose(run["losses"], alone["losses"], rtol=1e-4)
        np.testing.assert_allclose(run["params"], alone["params"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["fedsl", "fedavg"])  # with masks and without
def test_packed_averages_train_as_well_and_count_the_same(answers: Any, name: str) -> None:
    whole, packed = (answers["train"][n]["[2, 2]"] for n in (name, f"{name} packed"))
    assert packed["integers"] == whole["integers"]
    assert packed["floats"] != whole["floats"], "bits make no difference"
    for loss in ("train_loss", "loss"):
        np.testing.assert_allclose(packed["floats"][loss], whole["floats"][loss], rtol=0.03)


SUM_BITS, SUM_MESHES = [4, 8, 16], [[4, 1], [2, 2], [1, 4]]
BUCKET = 512  # entries of a step


def spans(vector: np.ndarray) -> np.ndarray:
    """For each entry the range of its bucket; the last bucket is padded with zeros."""
    buckets = np.pad(vector, (0, -vector.size % BUCKET)).reshape(-1, BUCKET)
    return np.repeat(np.ptp(buckets, axis=1), BUCKET)[: vector.size]


@pytest.mark.parametrize("mesh", SUM_MESHES, ids=str)
@pytest.mark.parametrize("bits", SUM_BITS)
def test_sums_are_right_in_the_mean_and_off_by_their_steps(
    answers: Any, bits: int, mesh: list[int]
) -> None:
    answer, (weights, rows) = answers["sums"][f"{bits} {mesh}"], summands()
    flat = np.concatenate([x.reshape(len(weights), -1) for x in rows.values()], axis=1)
    parts = (weights[:, None] * flat).reshape(mesh[0], -1, flat.shape[1]).sum(1)
    exact = parts.sum(0)
    # One step of each process's part, then one of their sum, which is off by then.
    steps = np.stack([spans(part) for part in parts]) / (2**bits - 1)
    last = (spans(exact) + 2 * steps.sum(0)) / (2**bits - 1)
    rounding = 1e-5 * np.abs(flat).max()
    for extreme in (answer["least"], answer["greatest"]):
        assert (np.abs(np.array(extreme) - exact) <= steps.sum(0) + last + rounding).all()
    deviation = np.sqrt(((steps**2).sum(0) + last**2) / 4 / 64)
    assert (np.abs(np.array(answer["mean"]) - exact) <= 6 * deviation + rounding).all()
    assert np.ptp([answer["least"], answer["greatest"]], axis=0).max() > 0, "rounding is random"
    assert answer["disagree"] == 0


@given(st.sampled_from([4, 8, 16]), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_what_is_packed_comes_back_in_as_few_bytes(bits: int, pairs: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, 2 * pairs, dtype=np.uint32)
    packed = pack(jnp.asarray(codes), bits)
    assert packed.nbytes == 2 * pairs * bits // 8
    np.testing.assert_array_equal(unpack(packed, bits), codes)


# Several processes.

SCRIPT = [sys.executable, str(ROOT / "experiments" / "train.py")]
LASTING: dict[str, Any] = {**SMALL, "rounds": 4, "eval_every": 2, "checkpoint_every": 2}


def arguments(workdir: Path, **changes: Any) -> list[str]:
    settings = {**LASTING, "compilation_cache": PROGRAMS, "workdir": workdir, **changes}
    return [f"--{name}={value}" for name, value in settings.items()]


def started(
    workdir: Path,
    more: list[str],
    devices: int = 1,
    program: list[str] = SCRIPT,
    **changes: Any,
) -> Any:
    return subprocess.Popen(
        [*program, *arguments(workdir, **changes), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(devices),
    )  # fmt: skip


def two_started(workdir: Path, **changes: Any) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return [started(workdir, [*common, f"--process={n}"], **changes) for n in range(2)]


def finished(*processes: Any) -> list[str]:
    """The standard output of each process; none may fail."""
    try:
        texts = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, texts, strict=True):
        assert process.returncode == 0, error[-3000:]
    return [out for out, _ in texts]


def metrics(workdir: Path) -> list[dict[str, str]]:
    with open(workdir / "metrics.csv", newline="") as file:
        return [{**row, "host_seconds": ""} for row in csv.DictReader(file)]


def check_same_metrics(workdir: Path, expected: Path, rounds: int) -> None:
    rows, others = metrics(workdir), metrics(expected)
    assert [int(row["round"]) for row in rows] == list(range(1, rounds + 1))
    for row, other in zip(rows, others[:rounds], strict=True):
        for name, text in other.items():
            if re.search("[.e]", text):
                np.testing.assert_allclose(float(row[name]), float(text), rtol=1e-4, err_msg=name)
            else:
                assert row[name] == text, name


@pytest.mark.slow
def test_constants_are_measured_alike_by_two_processes_and_one(tmp_path: Path) -> None:
    settings = {"measure_constants_every": 2, "momentum": 0.0, "sampling": "replacement"}
    alone, both = tmp_path / "alone", tmp_path / "both"
    finished(started(alone, [], **settings), *two_started(both, **settings))
    measured, expected = (
        [json.loads(line) for line in (folder / "constants.jsonl").read_text().splitlines()]
        for folder in (both, alone)
    )
    assert (
        [row["round"] for row in measured] == [row["round"] for row in expected] == [0, 1, 2, 3, 4]
    )
    for row, other in zip(measured, expected, strict=True):
        np.testing.assert_allclose(row["loss"], other["loss"], rtol=1e-4)
        assert ("beta" in row) == (row["round"] % 2 == 0)
        if "beta" in row:
            np.testing.assert_allclose(row["beta"][0], other["beta"][0], rtol=0.01)


ENDS = """
import jax
from jfedsl.run.hooks import Hook
from jfedsl.run.script import run
from jfedsl.run.training import train

class Ends(Hook):
    def should_end(self):
        return jax.process_index() == 1

run(lambda config: print(train(config, [Ends()]).get("rounds")))
"""


@pytest.mark.slow
def test_a_hook_of_one_process_ends_the_run_in_both(tmp_path: Path) -> None:
    for _ in range(2):  # the second time, nothing is left to train
        first, second = finished(*two_started(tmp_path, program=[sys.executable, "-c", ENDS]))
        assert first.splitlines()[-1] == "2" and second.splitlines()[-1] == "None"
    assert len(metrics(tmp_path)) == 2


@pytest.mark.slow
def test_two_processes_go_back_to_the_same_whole_checkpoint(tmp_path: Path) -> None:
    finished(*two_started(tmp_path / "run"), started(tmp_path / "alone", [], rounds=6))
    arrays = [f for f in (tmp_path / "run/checkpoints/4/state").rglob("*") if f.is_file()]
    for file in arrays:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    finished(*two_started(tmp_path / "run", rounds=6))
    assert [path.name for path in (tmp_path / "run/checkpoints-damaged").iterdir()] == ["4"]
    check_same_metrics(tmp_path / "run", tmp_path / "alone", 6)


def wait_for(rounds: int, workdir: Path, processes: list[Any]) -> None:
    """Waits until that many rounds have been logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        file = workdir / "metrics.csv"
        if file.exists() and file.read_text().count("\n") > rounds:
            return
        time.sleep(0.02)
    raise RuntimeError([p.communicate()[1][-2000:] for p in processes if p.poll() is not None])


def check_stop(processes: list[Any], victim: int, saving: bool = False) -> None:
    """Kills one process; the other one ends with a line, JAX's own if JAX notices first."""
    other = processes[1 - victim]
    os.kill(processes[victim].pid, signal.SIGKILL)
    _, error = other.communicate(timeout=60)
    processes[victim].communicate()
    assert processes[victim].returncode == -signal.SIGKILL
    assert "Traceback" not in error and "Fatal Python" not in error
    if other.returncode == -signal.SIGABRT and (saving or victim == 0):
        assert "Terminating process because the JAX distributed service detected" in error
        assert "another task died" in error
        return
    assert other.returncode == 1
    line = error.splitlines()[-1]
    assert line.startswith(f"error: process {1 - victim} of 2 stops: another one of the run is lo")
    assert line.endswith("the same commands go on from the last checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_process_killed_during_a_save_stops_the_other(tmp_path: Path, victim: int) -> None:
    lasting = {"client_state": "host", "checkpoint_every": 4, "rounds": 500_000}
    processes = two_started(tmp_path, **lasting)
    try:
        wait_for(4, tmp_path, processes)
        while not list((tmp_path / "checkpoints").glob("*tmp*")):
            if any(process.poll() is not None for process in processes):
                raise RuntimeError("ended before a save")
        check_stop(processes, victim, saving=True)
    finally:
        for process in processes:
            process.kill()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "runs" / "both"
    changes = {**EXACT, "rounds": 3}
    processes = two_started(both, client_state="host", **changes)
    training.train(parse(arguments(alone, **changes)))
    finished(*processes)
    assert [path.name for path in both.parent.iterdir()] == ["both"]
    check_same_metrics(both, alone, 3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_two_processes_end_together_and_four_devices_go_on(
    tmp_path: Path, generated: Path, victim: int
) -> None:
    """Each process reads only the images of its clients; then one of them is killed."""
    alone, both = tmp_path / "alone", tmp_path / "runs" / "both"
    lasting: dict[str, Any] = {**EXACT, "checkpoint_every": 16}
    data = {"dataset": "fashion_mnist", "data_dir": generated}
    processes = two_started(both, **data, **lasting, client_state="host", rounds=500_000)
    try:
        wait_for(18, both, processes)  # past a save, long before another one
        check_stop(processes, victim)
    finally:
        for process in processes:
            process.kill()
    before = metrics(both)
    assert len(before) > 16 and [p.name for p in (both / "checkpoints").iterdir()] == ["16"]
    lasting["rounds"] = 20
    finished(
        started(alone, [], **data, **lasting),
        started(both, [], 4, client_state="host", **data, **lasting),
    )
    assert metrics(both)[:16] == before[:16]
    check_same_metrics(both, alone, 20)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_the_same_commands_go_on_after_a_kill_and_one_process_prints(
    tmp_path: Path, victim: int
) -> None:
    lasting = {"client_state": "host", "checkpoint_every": 50}
    processes = two_started(tmp_path / "run", **lasting, rounds=500_000)
    try:
        wait_for(52, tmp_path / "run", processes)
        check_stop(processes, victim)
    finally:
        for process in processes:
            process.kill()
    first, second = finished(*two_started(tmp_path / "run", **lasting, rounds=60))
    assert "test accuracy" in first and "pictures" in first
    assert "test accuracy" not in second and "workdir" not in second
    assert [int(row["round"]) for row in metrics(tmp_path / "run")] == list(range(1, 61))


# What cannot work.

TWO = {"coordinator": "127.0.0.1:1", "processes": 2, "process": 0, "workdir": "run"}
LOCAL = {"norm": "batch", "batch_norm_statistics": "local"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"process": 1}, "--process=1 has no effect without --coordinator=HOST:PORT"),
    ({"processes": 2}, "--processes=2 has no effect without --coordinator=HOST:PORT"),
    ({"coordinator": "cluster", "processes": 2, "workdir": "run"}, "--processes=2 has no effect"),
    ({**TWO, "workdir": ""}, "--workdir must be a folder that all processes see"),
    ({"coordinator": "cluster"}, "--workdir must be a folder that all processes see"),
    ({**TWO, "processes": None}, "--processes must be a number with --coordinator=HOST:PORT"),
    ({**TWO, "process": None}, "--process must be a number with --coordinator=HOST:PORT"),
    ({**TWO, "process": 2}, "--process must be a number below --processes=2"),
    ({**TWO, "process": -1}, "--process must be a whole number from 0"),
    ({**TWO, "coordinator": "localhost"}, "--coordinator must be HOST:PORT"),
    ({**TWO, "coordinator": "host:"}, "--coordinator must be HOST:PORT"),
    ({**TWO, "coordinator": "host:x"}, "--coordinator must be HOST:PORT"),
    ({"devices": 0}, "--devices must be a whole number from 1"),
    ({"collective_bits": 12}, "--collective_bits must be one of 4, 8, 16, 32"),
    ({"client_state": "disk"}, "--client_state must be one of resident, host, stateless"),
    (
        {"client_state": "stateless", "model_down": "uniform(8)"},
        "--model_down=uniform(8) cannot be combined with --client_state=stateless",
    ),
    (
        {"client_state": "stateless", "model_up": "feedback(topk(0.1))"},
        "--model_up must be a chain without feedback(...) or other memory with --client_state",
    ),
    (
        {"client_state": "stateless", **LOCAL},
        "--batch_norm_statistics must be aggregate with --client_state=stateless",
    ),
]


@pytest.mark.parametrize(("change", "text"), WRONG)
def test_what_cannot_work_together_is_one_clear_line(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        Config(**change)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


def test_the_same_from_a_command_line() -> None:
    with pytest.raises(UserError, match="--process=1 has no effect without --coordinator"):
        parse(["--process=1"])


def test_more_devices_than_there_are_is_refused_before_any_folder_is_made(tmp_path: Path) -> None:
    count = jax.local_device_count() + 1
    with pytest.raises(UserError, match=f"--devices must be at most the {count - 1} h"):
        training.train(plain(devices=count, workdir=str(tmp_path / "never")))
    assert list(tmp_path.iterdir()) == []
    assert distributed.mesh_of(plain(devices=1)) is None


def test_a_server_of_client_after_client_has_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    turns = {"algorithm": "sfl_v2", "local_steps": 2}
    assert distributed.mesh_of(plain(**turns)) is None
    allowed = "--devices must be 1 with --algorithm=sfl_v2 and --server_order=client"
    with pytest.raises(UserError, match=allowed):
        distributed.mesh_of(plain(devices=2, **turns))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match="--coordinator=.* cannot be combined with .*=client; one cl"
    ):
        distributed.mesh_of(plain(**turns))
