"""Predictions of `scaling_model.py` against rounds that `scaling.py` has measured on a CPU."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scaling_fit import largest_error
from scaling_hardware import Hardware, Level
from scaling_predict import Efficiency, predict
from scaling_programs import Laws, Size

_IDEAL = Efficiency(1.0, 1.0, 0.0)


class Measured(NamedTuple):
    """A measured round.

    Attributes:
      processes: of the run.
      devices: virtual ones of each process.
      clients: all of which take part.
      cores: that the run had.
      seconds: of a round.
    """

    processes: int
    devices: int
    clients: int
    cores: int
    seconds: float

    @property
    def size(self) -> Size:
        """The size of the run."""
        return Size(self.processes * self.devices, self.clients, self.clients)


def read(files: Sequence[str]) -> tuple[list[Measured], float, list[str]]:
    """Measured rounds, bytes a second of loopback, and the flags of the runs.

    Args:
      files: what `scaling.py --question=model` printed, and more of its questions.
    """
    rows = [row for file in files for row in Path(file).read_text().splitlines()]
    lines: list[dict[str, Any]] = [json.loads(row) for row in rows if row.startswith("{")]
    runs = [line for line in lines if "median" in line and line["participants"] is None]
    names = ("processes", "devices", "clients", "cores_used", "median")
    measured = sorted({Measured(*(line[name] for name in names)) for line in runs})
    loopback = next(line["loopback"]["bandwidth"] for line in lines if "loopback" in line)
    return measured, loopback, runs[0]["flags"]


def check(laws: Laws, measured: Sequence[Measured], loopback: float) -> None:
    """Prints predicted and measured seconds of a round, and the errors.

    Two runs say what the model cannot know: the smallest of one process on one core, how many
    FLOP/s of products a core does; the smallest of two processes, how long a step of a message
    takes. All others are predicted. Devices share the speed of all cores; messages between virtual
    devices of a process take no time.

    Args:
      laws: costs of rounds.
      measured: rounds.
      loopback: bytes a second between processes.
    """
    first = next(m for m in measured if (m.processes, m.devices, m.cores) == (1, 1, 1))
    smallest = next(m for m in measured if m.processes == 2)
    rate = laws.costs(first.size).flops / first.seconds
    message = _message(laws, rate, loopback, smallest)
    print("| processes | virtual devices | cores | clients | predicted s/round | s/round | error |")
    print("|" + " ---: |" * 7)
    pairs, lines = [], []
    for run in measured:
        predicted = _predicted(laws, _cpu(rate, loopback, message, run), run)
        fitted = run in (first, smallest)
        error = "fitted" if fitted else f"{predicted / run.seconds - 1:+.0%}"
        cells = (*run[:2], run.cores, run.clients, f"{predicted:.4g}", f"{run.seconds:.4g}", error)
        print(f"| {' | '.join(map(str, cells))} |")
        lines.append({**run._asdict(), "predicted": predicted, "fitted": fitted})
        pairs += [] if fitted else [(predicted, run.seconds)]
    print(f"\nGreatest error: {largest_error(pairs):.0%}\n")
    for line in (*lines, {"flops_a_second": rate, "message_seconds": message}):
        print(json.dumps(line))


def _cpu(rate: float, loopback: float, hop: float, run: Measured) -> Hardware:
    """A device's part of the cores, as hardware whose products are all that takes time."""
    of_core = run.cores / run.size.devices
    link = Level(math.inf, 0, loopback, hop if run.processes > 1 else 0.0)
    inf = math.inf
    return Hardware({"float32": rate * of_core}, inf, inf, inf, inf, 1, 0.0, (link,))


def _predicted(laws: Laws, hardware: Hardware, run: Measured) -> float:
    return predict(laws, hardware, _IDEAL, run.size, row=0, dtype="float32").seconds


def _message(laws: Laws, rate: float, loopback: float, run: Measured) -> float:
    """Seconds of a step of a message, with which a run takes as long as it did."""
    without, with_a_second = (
        _predicted(laws, _cpu(rate, loopback, hop, run), run) for hop in (0.0, 1.0)
    )
    return max(0.0, (run.seconds - without) / (with_a_second - without))
