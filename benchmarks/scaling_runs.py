"""Training runs in processes of their own, as users start them, timed and weighed."""

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
    """What to run: who takes part, on how many devices of how many processes.

    Processes share as many cores as `cores_each` gives them together, where the machine has these.
    Each on a core of its own would be no better: what waits for a message there gets the core back
    only when a time slice ends, after 4 ms instead of 0.3 ms on the machine that this was tried on.
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
        """That its processes may use."""
        every, wanted = sorted(os.sched_getaffinity(0)), self.processes * self.cores_each
        return every[:wanted] if 0 < wanted <= len(every) else every

    def flags(self) -> list[str]:
        """Of each process."""
        flags = [f"--clients={self.clients}", f"--client_state={self.client_state}"]
        flags += [f"--devices={self.devices}", f"--collective_bits={self.collective_bits}"]
        if self.participants is not None:
            flags.append(f"--participants={self.participants}")
        return flags


@dataclasses.dataclass(frozen=True)
class Plan:
    """How runs are timed: calls of so many rounds, the first and the last left out.

    The first warms up; the last one's seconds have the evaluation in them. A checkpoint, which is
    in no call's seconds, ends each call.
    """

    rounds: int
    repeats: int
    flags: tuple[str, ...]

    def all_flags(self) -> list[str]:
        """Of a run, but for its case."""
        total = self.rounds * (self.repeats + 2)
        ends = [f"--rounds={total}", f"--eval_every={total}", f"--checkpoint_every={self.rounds}"]
        return [*ends, "--progress=none", "--network=none", *self.flags]


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is left of a run: its folder is gone.

    Attributes:
      seconds: of each round.
      peak_mib: greatest resident memory of each process, start, checkpoints and pictures included.
      environment: of the first process, as in its summary.
      loopback_bytes: that the machine received from itself meanwhile.
    """

    seconds: list[float]
    peak_mib: list[float]
    environment: dict[str, Any]
    loopback_bytes: int


def timed(case: Case, plan: Plan) -> tuple[list[float], Ended]:
    """Seconds a round, of each timed call, and the run."""
    ended = trained(case, plan.all_flags())
    own, n = ended.seconds[plan.rounds : -plan.rounds], plan.rounds
    return [sum(own[i : i + n]) / n for i in range(0, len(own), n)], ended


def trained(case: Case, flags: Sequence[str]) -> Ended:
    """Runs a case to its end, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [str(TRAIN), *flags, *case.flags(), f"--workdir={workdir}"]
        before = loopback()
        peaks = together(command, case, Path(folder))
        crossed = loopback() - before
        with (workdir / "metrics.csv").open() as rows:
            seconds = [float(row["host_seconds"]) for row in csv.DictReader(rows)]
        environment = json.loads((workdir / "summary.json").read_text())["environment"]
    return Ended(seconds, peaks, environment, crossed)


def together(command: Sequence[str], case: Case, folder: Path) -> list[float]:
    """Runs a script in all processes of a case; MiB that each had resident at most.

    What process n prints is in `n.out` of the folder.

    Raises:
      RuntimeError: one failed; with the end of what it printed.
    """
    port = _free_port()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for n in range(case.processes):
            own = [sys.executable, *command, *_joining(case, port, n)]
            started.append(_start(own, case, folder / f"{n}.out"))
        return [_ended(process, folder / f"{n}.out") for n, process in enumerate(started)]
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                process.wait()


def _joining(case: Case, port: int, n: int) -> list[str]:
    if case.processes == 1:
        return []
    own = [f"--processes={case.processes}", f"--process={n}"]
    return [f"--coordinator=127.0.0.1:{port}", *own]


def _start(command: list[str], case: Case, out: Path) -> subprocess.Popen[bytes]:
    """Starts one process, on the case's cores, with its virtual devices."""
    xla = os.environ.get("XLA_FLAGS", "")
    xla += f" --xla_force_host_platform_device_count={case.devices}"
    environment = {**os.environ, "XLA_FLAGS": xla.strip()}
    environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, case.cores)  # a child has those of the thread that starts it
        with out.open("wb") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    finally:
        os.sched_setaffinity(0, cores)


def _ended(process: subprocess.Popen[bytes], out: Path) -> float:
    """Waits for a process; MiB it had resident at most, or this one's at the start if greater."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed:\n{out.read_text()[-2000:]}")
    return usage.ru_maxrss / 1024


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def loopback() -> int:
    """Bytes that the machine has received from itself."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("/proc/net/dev has no lo")
