"""Training runs in separate processes, as users start them, with their times and memory."""

import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
TRAIN = _ROOT / "experiments" / "train.py"


@dataclasses.dataclass(frozen=True)
class Case:
    """Numbers of clients, devices and processes of a run.

    All processes share `processes * cores_each` cores, if the machine has as many. Pinning each
    process to its cores would be slower: a thread that waits for a message there would get the core
    back only at the end of a time slice, after 4 ms instead of 0.3 ms on the machine where it was
    measured.
    """

    clients: int
    participants: int | None = None
    devices: int = 1
    processes: int = 1
    cores_each: int = 0
    client_state: str = "resident"
    collective_bits: int = 32

    @property
    def cores(self) -> list[int]:
        """Numbers of the cores that its processes may use."""
        available, count = sorted(os.sched_getaffinity(0)), self.processes * self.cores_each
        return available[:count] if 0 < count <= len(available) else available

    def flags(self) -> list[str]:
        """Flags of each of its processes."""
        flags = [f"--clients={self.clients}", f"--client_state={self.client_state}"]
        flags += [f"--devices={self.devices}", f"--collective_bits={self.collective_bits}"]
        if self.participants is not None:
            flags.append(f"--participants={self.participants}")
        return flags


@dataclasses.dataclass(frozen=True)
class Plan:
    """How runs are timed: by calls of `rounds` rounds, without the first and the last call.

    The first call warms up, and the seconds of the last include the evaluation. Each call ends with
    a checkpoint, which is not in its seconds.
    """

    rounds: int
    repeats: int
    flags: tuple[str, ...]

    def all_flags(self) -> list[str]:
        """All flags of a run but those of its case."""
        total = self.rounds * (self.repeats + 2)
        calls = [f"--rounds={total}", f"--eval_every={total}", f"--checkpoint_every={self.rounds}"]
        return [*calls, "--progress=none", "--network=none", *self.flags]


@dataclasses.dataclass(frozen=True)
class Ended:
    """The measurements of a finished run.

    Attributes:
      seconds: seconds of each round.
      peak_mib: largest resident set of each process, MiB, during start, checkpoints and pictures
        too.
      environment: environment of the first process, from summary.json.
      loopback_bytes: bytes on the loopback interface during the run.
    """

    seconds: list[float]
    peak_mib: list[float]
    environment: dict[str, Any]
    loopback_bytes: int


def timed(case: Case, plan: Plan) -> tuple[list[float], Ended]:
    """Seconds of a round in each timed call, and all measurements of the run."""
    ended = trained(case, plan.all_flags())
    seconds, n = ended.seconds[plan.rounds : -plan.rounds], plan.rounds
    return [sum(seconds[i : i + n]) / n for i in range(0, len(seconds), n)], ended


def trained(case: Case, flags: Sequence[str]) -> Ended:
    """Runs a case to its end, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [str(TRAIN), *flags, *case.flags(), f"--workdir={workdir}"]
        before = loopback()
        peaks = together(command, case, Path(folder))
        loopback_bytes = loopback() - before
        with (workdir / "metrics.csv").open() as rows:
            seconds = [float(row["host_seconds"]) for row in csv.DictReader(rows)]
        environment = json.loads((workdir / "summary.json").read_text())["environment"]
    return Ended(seconds, peaks, environment, loopback_bytes)


def together(command: Sequence[str], case: Case, folder: Path) -> list[float]:
    """Runs a script in all processes of a case and returns the largest resident set of each, MiB.

    Process n prints into `n.out` in the folder.

    Raises:
      RuntimeError: a process failed; the text has the end of its output.
    """
    port = _free_port()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for n in range(case.processes):
            arguments = [sys.executable, *command, *_process_flags(case, port, n)]
            started.append(_start(arguments, case, folder / f"{n}.out"))
        return [_ended(process, folder / f"{n}.out") for n, process in enumerate(started)]
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                process.wait()


def _process_flags(case: Case, port: int, n: int) -> list[str]:
    """The flags with which process n joins the others."""
    if case.processes == 1:
        return []
    numbers = [f"--processes={case.processes}", f"--process={n}"]
    return [f"--coordinator=127.0.0.1:{port}", *numbers]


def _start(command: list[str], case: Case, out: Path) -> subprocess.Popen[bytes]:
    """Starts one process, on the case's cores, with its virtual devices."""
    xla = os.environ.get("XLA_FLAGS", "")
    xla += f" --xla_force_host_platform_device_count={case.devices}"
    environment = {**os.environ, "XLA_FLAGS": xla.strip()}
    environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, case.cores)  # inherited by the process
        with out.open("wb") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    finally:
        os.sched_setaffinity(0, cores)


def _ended(process: subprocess.Popen[bytes], out: Path) -> float:
    """Waits for a process; its largest resident set in MiB, at least that of this process."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed:\n{out.read_text()[-2000:]}")
    return usage.ru_maxrss / 1024


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def loopback() -> int:
    """Bytes that the loopback interface has received so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("/proc/net/dev has no lo")
