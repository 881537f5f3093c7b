"""Predictions of `scaling_model.py` against rounds measured on this machine."""

import json
import math
import statistics
from collections.abc import Sequence

from scaling_fit import largest_error, loopback_bandwidth
from scaling_hardware import Hardware, Level
from scaling_predict import Efficiency, predict
from scaling_programs import Laws, Programs, Size
from scaling_runs import Case, Plan, timed

_ROUNDS, _REPEATS = 5, 3
_FIRST, _SMALLEST = Case(12, cores_each=1), Case(2, processes=2, cores_each=1)
_OTHERS = (
    Case(48, cores_each=1),
    Case(24, processes=2, cores_each=1),
    Case(48, processes=2, cores_each=1),
    Case(48, devices=4),
)
_IDEAL = Efficiency(1.0, 1.0, 0.0)


def check(programs: Programs, run_flags: Sequence[str], least: int) -> None:
    """Prints predicted and measured seconds of a round, and the errors.

    Two runs say what the model cannot know: one process with 12 clients how many FLOP/s of products
    a core does, two processes with a client each how long a message takes; the speed of loopback is
    measured too. All other runs are predicted: more clients, two processes, and four virtual
    devices that share the cores and whose messages take no time.

    Args:
      programs: that costs come from.
      run_flags: of the training runs.
      least: participants of a device in the smallest compiled program.
    """
    laws = programs.laws("cpu", "all", True, least)
    plan = Plan(_ROUNDS, _REPEATS, tuple(run_flags))
    print("| processes | virtual devices | clients | predicted s/round | s/round | error |")
    print("|" + " ---: |" * 6, flush=True)
    first = _measured(_FIRST, plan)
    rate = laws.costs(_size(_FIRST)).flops / first
    _row(_FIRST, None, first)
    smallest = _measured(_SMALLEST, plan)
    bandwidth = loopback_bandwidth(cores_each=1)
    message = _message(laws, rate, bandwidth, smallest)
    _row(_SMALLEST, None, smallest)
    pairs = []
    for case in _OTHERS:
        shared = case.devices / len(case.cores) if case.devices > 1 else 1.0
        hop = message if case.processes > 1 else 0.0
        predicted = _predicted(laws, _cpu(rate / shared, bandwidth, hop), case)
        measured = _measured(case, plan)
        _row(case, predicted, measured)
        pairs.append((predicted, measured))
    facts = {"flops_a_second": rate, "loopback_bytes_a_second": bandwidth, "message": message}
    print(f"\n{json.dumps(facts)}\n\nGreatest error: {largest_error(pairs):.0%}")


def _size(case: Case) -> Size:
    return Size(case.processes * case.devices, case.clients, case.clients)


def _measured(case: Case, plan: Plan) -> float:
    return statistics.median(timed(case, plan)[0])


def _cpu(rate: float, bandwidth: float, hop: float) -> Hardware:
    """A core, or its share of one, as hardware whose products are all that takes time."""
    link = Level(math.inf, 0, bandwidth, hop)
    inf = math.inf
    return Hardware({"float32": rate}, inf, inf, inf, inf, 1, 0.0, (link,))


def _predicted(laws: Laws, hardware: Hardware, case: Case) -> float:
    return predict(laws, hardware, _IDEAL, _size(case), row=0, dtype="float32").seconds


def _message(laws: Laws, rate: float, bandwidth: float, seconds: float) -> float:
    """Seconds of a step of a message, with which the smallest run takes so long."""
    without, with_a_second = (
        _predicted(laws, _cpu(rate, bandwidth, hop), _SMALLEST) for hop in (0.0, 1.0)
    )
    return max(0.0, (seconds - without) / (with_a_second - without))


def _row(case: Case, predicted: float | None, measured: float) -> None:
    shown = "-" if predicted is None else f"{predicted:.4g}"
    error = "fitted" if predicted is None else f"{predicted / measured - 1:+.0%}"
    cells = (case.processes, case.devices, case.clients, shown, f"{measured:.4g}", error)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
