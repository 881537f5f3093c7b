"""Time of a round of every algorithm, beside that of fedsl and what their FLOPs say.

    python benchmarks/algorithms.py

All rounds are compiled in one process and run in turn; nothing is compressed. `FLOPs` is the ratio
of the products of a round, counted by their definition: an algorithm whose ratio of seconds is
greater computes its products less efficiently, or does more beside them. Prints a table and one
JSON line an algorithm.
"""

import json
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.engine.streams import CUT_GRADIENT, SMASHED
from jfedsl.run.assemble import Experiment, build

_MODEL = flags.DEFINE_string("model", "small", "Model.")
_CUT = flags.DEFINE_string("cut", "pool2", "Last client-side layer.")
_CUTS = flags.DEFINE_string("cuts", "pool1-pool3", "Cuts by client, compared too.")
_CLIENTS = flags.DEFINE_integer("clients", 10, "Clients.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Examples per client.")
_STEPS = flags.DEFINE_integer("steps", 10, "Exchanges in a round.", lower_bound=1)
_EVERY = flags.DEFINE_integer("upload_every", 5, "Of algorithms with auxiliary heads.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed rounds of each.", lower_bound=3)
_OFF: dict[str, Any] = {
    "prune_kind": "none", "dropout_rate": 0.0, "smashed_bits": 32, "cut_gradient_bits": 32,
    "client_gradient_bits": 32,
}  # fmt: skip


def config(name: str, cut: str) -> Config:
    """The config of an algorithm, without compression."""
    uses, options = ALGORITHMS[name].uses, {option.name for option in ALGORITHMS[name].options}
    settings: dict[str, Any] = {
        "model": _MODEL.value,
        "algorithm": name,
        "clients": _CLIENTS.value,
        "batch_size": _BATCH_SIZE.value,
        "local_steps": _STEPS.value,
        "aggregate_every": 1,
        "partition": "iid",
    }
    if "cut" in uses:
        settings["cut"] = cut
    if Config(algorithm=name).compress_by_default:
        settings |= _OFF
    if "upload_every" in options:
        settings["upload_every"] = _EVERY.value
    return Config(**settings)


def round_flops(experiment: Experiment) -> float:
    """FLOPs of the products of a round, of clients and server."""
    spec = experiment.spec
    assert spec.radio is not None, "a run has a network unless a flag says otherwise"
    counts, exchanges = spec.radio.flop_counts, spec.local_steps
    messages = {stream.name: stream.messages for stream in spec.algorithm.streams}
    server = np.broadcast_to(counts.server, spec.participants).sum()
    client = float(counts.forward.sum(axis=-1).mean() + counts.backward.sum(axis=-1).mean())
    total = spec.participants * exchanges * (client + counts.tail)
    total += server * (
        messages[SMASHED.name](spec, exchanges) if SMASHED.name in messages else exchanges
    )
    if counts.fit:
        total += spec.participants * counts.fit * messages[CUT_GRADIENT.name](spec, exchanges)
    return float(total)


class Rounds:
    """The compiled round of an algorithm."""

    def __init__(self, name: str, cut: str) -> None:
        """Compiles it and runs it once."""
        experiment = build(config(name, cut))
        self.flops = round_flops(experiment)
        self._state, self._arguments = experiment.init(), (experiment.data, experiment.key)
        rounds: Any = experiment.rounds(1)
        self._run = rounds.lower(*self._arguments, self._state, 1).compile()
        self.seconds()

    def seconds(self) -> float:
        """Seconds of a round."""
        began = time.perf_counter()
        self._state, record = self._run(*self._arguments, self._state, 1)
        jax.block_until_ready(record)
        return time.perf_counter() - began


def main(_: list[str]) -> None:
    """Measures and prints."""
    first = next(iter(ALGORITHMS))
    cases = {first: (first, _CUT.value), f"{first}, cuts {_CUTS.value}": (first, _CUTS.value)}
    cases |= {name: (name, _CUT.value) for name in ALGORITHMS if name != first}
    rounds = {title: Rounds(*case) for title, case in cases.items()}
    times: dict[str, list[float]] = {title: [] for title in rounds}
    for _repeat in range(_REPEATS.value):
        for title, one in rounds.items():
            times[title].append(one.seconds())
    base, base_flops = statistics.median(times[first]), rounds[first].flops
    print(
        f"{_MODEL.value}, {_CLIENTS.value} clients x {_BATCH_SIZE.value}, {_STEPS.value} exchanges"
    )
    print(f"{'':<26}{'ms a round':>12}{'over ' + first:>12}{'FLOPs over':>12}")
    for title, seconds in times.items():
        median, flops = statistics.median(seconds), rounds[title].flops
        print(f"{title:<26}{median * 1e3:>12.1f}{median / base:>12.2f}{flops / base_flops:>12.2f}")
    for title, seconds in times.items():
        facts = {"name": title, "seconds": seconds, "flops": rounds[title].flops}
        device = {"device_kind": jax.devices()[0].device_kind, "jax": jax.__version__}
        print(json.dumps({**facts, **device}))


if __name__ == "__main__":
    app.run(main)
