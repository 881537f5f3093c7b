r"""Seconds of a round and memory against devices, processes and clients, and costs of messages.

    python benchmarks/scaling.py --question=devices
    python benchmarks/scaling.py --question=processes
    python benchmarks/scaling.py --question=population
    python benchmarks/scaling.py --question=model
    python benchmarks/scaling.py --question=collectives --model=mlp -- --prune_kind=none

Every run is `experiments/train.py` in separate processes, with the flags that follow `--`; every
round is an aggregation period. Seconds are those of metrics.csv, medians over calls of --rounds
rounds. Memory is the largest resident set of a process, during start, checkpoints and pictures too.

- `devices`: virtual devices of one process. They share all of its cores, which one device uses
  alone, so that more devices show the cost of sharding and of sums, not a gain.
- `processes`: processes with --cores_each cores for each. They show scaling up to the number of
  cores of the machine; more processes share its cores.
- `population`: numbers of clients, for each place where their models are kept.
- `model`: fits the cost of a round on one device, and the cost of a message to two processes with a
  client each; checks both at other numbers of clients, and predicts larger ones.
- `collectives`: bytes on the loopback interface, as the difference between a run and one with half
  the rounds. Each is the least of --repeats runs, as other programs may use the interface.

Prints Markdown tables and one JSON line a case.
"""

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags
from scaling_fit import (
    Connection,
    CostModel,
    connection_of,
    fitted,
    largest_error,
    loopback_bandwidth,
    messages_of,
    sent_bytes,
)
from scaling_runs import Case, Plan, timed, trained

_NAMES = ("devices", "processes", "population", "model", "collectives")
_QUESTION = flags.DEFINE_enum("question", "all", [*_NAMES, "all"], "What to measure.")
_MODEL = flags.DEFINE_string("model", "small", "Model.")
_DATASET = flags.DEFINE_string("dataset", "fashion_mnist", "Data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of prepared data sets.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Examples per client.")
_LOCAL_STEPS = flags.DEFINE_integer("local_steps", 1, "Exchanges in a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds in a timed call.", 1, 25)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls, or runs for a count of bytes.", 1)
_COUNTS = flags.DEFINE_list("counts", "1,2,4", "Numbers of devices, or of processes.")
_STRONG = flags.DEFINE_integer("strong", 48, "Clients in all, for strong scaling.")
_WEAK = flags.DEFINE_integer("weak", 12, "Clients of each device, for weak scaling.")
_CORES_EACH = flags.DEFINE_integer("cores_each", 1, "Cores for each process; 0 for all cores.", 0)
_CLIENTS = flags.DEFINE_list("clients", "10,100,1000,10000", "Numbers of clients.")
_PARTICIPANTS = flags.DEFINE_integer("participants", 10, "Most participants in a period.")
_FIT = flags.DEFINE_list("fit", "10,20,40,80", "Participants that the cost model is fitted to.")
_CHECK = flags.DEFINE_list("check", "30,60,120", "Participants that it is checked at.")
_BITS = flags.DEFINE_list("bits", "32,8,4", "Bits of an entry of averaged models.")
_LATENCY = flags.DEFINE_float("latency", 2e-5, "Seconds of a message, for predictions.")

_ROUNDS_OF_BYTES = (25, 50)
_TEST_EXAMPLES = 360  # digits has as many


def _flags() -> tuple[str, ...]:
    """Flags of all runs."""
    return (
        f"--model={_MODEL.value}", f"--dataset={_DATASET.value}", f"--data_dir={_DATA_DIR.value}",
        f"--batch_size={_BATCH_SIZE.value}", f"--local_steps={_LOCAL_STEPS.value}",
        "--partition=iid", "--sampling=replacement", "--aggregate_every=1",
        f"--test_examples={_TEST_EXAMPLES}", *_MORE,
    )  # fmt: skip


_MORE: list[str] = []  # flags that follow --


def _ints(values: Sequence[str]) -> list[int]:
    return [int(value) for value in values]


class Table:
    """A Markdown table whose rows are printed at once, followed by one JSON line a row."""

    def __init__(self, title: str, *columns: str) -> None:
        """Prints the title and the header."""
        print(f"\n{title}\n")
        print(f"| {' | '.join(columns)} |\n|{' ---: |' * len(columns)}", flush=True)
        self._lines: list[dict[str, Any]] = []

    def row(self, *cells: Any, **facts: Any) -> None:
        """Prints a row and keeps its facts for a JSON line."""
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        print(f"| {' | '.join(texts)} |", flush=True)
        self._lines.append(facts)

    def end(self, question: str) -> None:
        """Prints the JSON lines."""
        print()
        for line in self._lines:
            print(json.dumps({"question": question, "flags": _flags(), **line}))


def _measured(case: Case) -> dict[str, Any]:
    """The facts of a case: times, memory and environment."""
    seconds, ended = timed(case, Plan(_ROUNDS.value, _REPEATS.value, _flags()))
    return {
        **dataclasses.asdict(case),
        "cores_used": len(case.cores),
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "peak_mib": max(ended.peak_mib),
        **ended.environment,
    }


_TIMES = ("s/round", "min", "max", "peak MiB")


def _times(facts: dict[str, Any]) -> list[Any]:
    return [facts["median"], facts["min"], facts["max"], round(facts["peak_mib"])]


def _scaling(what: str, case: Callable[[int, int], Case]) -> None:
    """Tables of strong scaling (constant clients in all) and weak scaling (constant a device)."""
    counts = _ints(_COUNTS.value)
    weak = {n: n * _WEAK.value for n in counts}
    for kind, clients in (("Strong", dict.fromkeys(counts, _STRONG.value)), ("Weak", weak)):
        title = f"{kind} scaling over {what}, {len(os.sched_getaffinity(0))} cores"
        table = Table(title, what, "clients", *_TIMES, "clients/s over first", "cores")
        first = 0.0
        for n in counts:
            facts = _measured(case(n, clients[n]))
            rate = clients[n] / facts["median"]
            first = first or rate
            cells = [n, clients[n], *_times(facts), rate / first, facts["cores_used"]]
            table.row(*cells, scaling=kind, **facts)
        table.end(what)


def devices() -> None:
    """Virtual devices of one process."""
    _scaling("devices", lambda n, clients: Case(clients, devices=n))
    print("Virtual devices share the cores, all of which a lone device uses, too.")


def processes() -> None:
    """Processes that communicate over the loopback interface."""
    cores = _CORES_EACH.value
    _scaling("processes", lambda n, clients: Case(clients, processes=n, cores_each=cores))
    print("Only rows with more cores than the one before show a gain; others share as many.")


def population() -> None:
    """Numbers of clients, for each place where their models are kept."""
    table = Table("Clients in all", "clients", "participants", "their memories", *_TIMES)
    for clients in _ints(_CLIENTS.value):
        count = min(clients, _PARTICIPANTS.value)
        for place in ("resident", "host", "stateless"):
            facts = _measured(Case(clients, count, client_state=place))
            table.row(clients, count, place, *_times(facts), **facts)
    table.end("population")


def model() -> None:
    """Fits the cost model on one device, checks it at other sizes, and predicts."""
    cores, aggregate_every = _CORES_EACH.value, 1
    table = Table("Rounds that the cost model is fitted to, one device", "clients", *_TIMES)
    seconds: dict[int, float] = {}
    for clients in _ints(_FIT.value):
        facts = _measured(Case(clients, cores_each=cores))
        seconds[clients] = facts["median"]
        table.row(clients, *_times(facts), **facts)
    table.end("model")
    messages = messages_of(["--clients=2", "--network=none", *_flags()])
    cost = fitted(seconds, messages, _LOCAL_STEPS.value, aggregate_every)
    smallest = _measured(Case(2, processes=2, cores_each=cores))
    table = Table(
        "A round with hardly any work, from which a message's cost follows",
        "processes",
        "clients",
        *_TIMES,
    )
    table.row(2, 2, *_times(smallest), **smallest)
    table.end("model")
    loopback = connection_of(cost, smallest["median"], loopback_bandwidth(cores))
    print(f"\n{json.dumps({**dataclasses.asdict(cost), 'loopback': loopback._asdict()})}")
    _check(cost, loopback)
    _predict(cost)


def _check(cost: CostModel, loopback: Connection) -> None:
    """A table of predicted and measured seconds, at sizes that the model was not fitted to."""
    columns = ("processes", "clients", "predicted s/round", "s/round", "min", "max", "error")
    table, pairs = Table("The cost model checked at other sizes", *columns), []
    largest = max(_ints(_FIT.value))
    cases = [(1, n) for n in _ints(_CHECK.value)] + [(2, largest // 2), (2, largest)]
    for count, clients in cases:
        case = Case(clients, processes=count, cores_each=_CORES_EACH.value)
        facts, predicted = _measured(case), cost.seconds(clients, count, loopback)
        pairs.append((predicted, facts["median"]))
        error = f"{predicted / facts['median'] - 1:+.0%}"
        times = (facts["median"], facts["min"], facts["max"])
        table.row(count, clients, predicted, *times, error, predicted=predicted, **facts)
    table.end("model")
    print(f"\nGreatest error: {largest_error(pairs):.0%}")


def _predict(cost: CostModel) -> None:
    """A table of predicted seconds on devices and connections that are not here."""
    columns = ("clients", "devices", "link Gbit/s", "predicted s/round")
    title = "PREDICTED, not measured: devices as the one fitted, each its own computer"
    table = Table(title, *columns)
    for clients in (100, 1000, 10000):
        for count in (1, 8, 64):
            for gigabits in (1, 10, 100) if count > 1 else (0,):
                connection = Connection(gigabits * 1e9 / 8 or float("inf"), _LATENCY.value)
                seconds = cost.seconds(clients, count, connection)
                facts = {"clients": clients, "devices": count, "gigabits": gigabits or None}
                table.row(*facts.values(), seconds, **facts, predicted_seconds=seconds)
    table.end("model, predicted")


def collectives() -> None:
    """Bytes of a round between two processes, beside the bytes of the entries alone."""
    messages = messages_of(["--clients=2", "--network=none", *_flags()])
    columns = ("bits", "bytes/round", "entries' bytes", "all of float32")
    table = Table("Bytes on loopback, two processes", *columns)
    cores = _CORES_EACH.value
    for bits in _ints(_BITS.value):
        case = Case(2 * _WEAK.value, processes=2, cores_each=cores, collective_bits=bits)
        counts = {rounds: _loopback_bytes(case, rounds) for rounds in _ROUNDS_OF_BYTES}
        few, many = _ROUNDS_OF_BYTES
        measured = (min(counts[many]) - min(counts[few])) / (many - few)
        entries, float32 = (sent_bytes(2, messages, _LOCAL_STEPS.value, b) for b in (bits, 32))
        facts = {"bytes_a_round": measured, "entries_bytes": entries, "float32_bytes": float32}
        numbers = (f"{n:,.0f}" for n in facts.values())
        table.row(bits, *numbers, **dataclasses.asdict(case), **facts, bytes_by_rounds=counts)
    table.end("collectives")
    print(f"\nSummed up: {messages}")


def _loopback_bytes(case: Case, rounds: int) -> list[int]:
    """Bytes on the loopback interface of each of --repeats runs.

    A run has one call of `rounds` rounds, one evaluation and one checkpoint.
    """
    call = [f"--{name}={rounds}" for name in ("rounds", "eval_every", "checkpoint_every")]
    run_flags = [*_flags(), *call, "--progress=none", "--network=none"]
    return [trained(case, run_flags).loopback_bytes for _ in range(_REPEATS.value)]


def main(arguments: list[str]) -> None:
    """Answers the questions asked."""
    _MORE.extend(arguments[1:])
    jax.config.update("jax_platforms", "cpu")  # leaves an accelerator to the runs
    for question in (devices, processes, population, model, collectives):
        if _QUESTION.value in ("all", question.__name__):
            question()


if __name__ == "__main__":
    app.run(main)
