"""Seconds to compile the round, against model, clients and rounds in a call.

    python benchmarks/compile_time.py

Prints seconds to trace and compile (median), seconds of a second start, which traces and loads the
program from the cache on disk, and seconds to trace and compile with all compression on. Batches
are of 16, without norm. Prints a table and JSON lines.
"""

import dataclasses
import json
import os
import statistics
import tempfile
import time
from typing import Any

import jax
from absl import app, flags
from step import ALL_ON, Options, config

from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import build
from jfedsl.run.processes.compilation import compiled, keep_programs

_MODELS = flags.DEFINE_list("models", list(MODELS), "Models, for the middle one of --clients.")
_CLIENTS = flags.DEFINE_list("clients", ["10", "100", "1000"], "Numbers of clients, for --model.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Compilations of each.", lower_bound=1)
_ROUNDS = flags.DEFINE_list("rounds", ["1", "50"], "Rounds in a call, for --model.")
_MODEL = flags.DEFINE_string("model", "small", "Model to vary clients and rounds with.")

_COLUMNS = ("seconds", "second_start_seconds", "all_on_seconds")


def seconds(options: Options, rounds: int) -> float:
    """Seconds to trace and compile the rounds, or to load them from the cache."""
    experiment = build(config(options))
    state = jax.eval_shape(experiment.init)
    jax.clear_caches()
    began = time.perf_counter()
    compiled(experiment.rounds(rounds), experiment.data, experiment.key, state, 1)
    return time.perf_counter() - began


def measure(options: Options, rounds: int) -> dict[str, Any]:
    """The facts of a case: seconds of each kind, and the versions that they were measured on."""
    with tempfile.TemporaryDirectory() as folder:
        keep_programs("")
        first = [seconds(options, rounds) for _ in range(_REPEATS.value)]
        all_on = seconds(dataclasses.replace(options, **ALL_ON), rounds)
        keep_programs(folder)
        seconds(options, rounds)
        second_start = seconds(options, rounds)
        keep_programs("")
    return {
        "model": options.model, "clients": options.clients, "rounds": rounds,
        "seconds": statistics.median(first), "least_and_greatest": [min(first), max(first)],
        "second_start_seconds": second_start, "all_on_seconds": all_on,
        "jax": jax.__version__, "device_kind": jax.devices()[0].device_kind,
    }  # fmt: skip


def main(_: list[str]) -> None:
    """Measures and prints."""
    clients, rounds = ([int(n) for n in flag.value] for flag in (_CLIENTS, _ROUNDS))
    cases = [(_MODEL.value, n, rounds[0]) for n in clients]
    cases += [(_MODEL.value, clients[0], n) for n in rounds[1:]]
    cases += [(name, clients[len(clients) // 2], rounds[0]) for name in _MODELS.value]
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        raise app.UsageError("unset JAX_COMPILATION_CACHE_DIR: programs would be loaded from there")
    seconds(Options("mlp"), 1)  # warms up the process, so that the first row is no slower
    lines = []
    print(f"{'model':<8}{'clients':>8}{'rounds':>8}{'first s':>10}{'second s':>10}{'all on s':>10}")
    for model, count, capacity in dict.fromkeys(cases):
        line = measure(Options(model, clients=count, batch_size=16, steps=1), capacity)
        lines.append(line)
        times = "".join(f"{line[name]:>10.1f}" for name in _COLUMNS)
        print(f"{model:<8}{count:>8}{capacity:>8}{times}", flush=True)
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    app.run(main)
