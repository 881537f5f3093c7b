"""Milliseconds of the bandwidth allocation `minmax`, against the number of clients.

    python benchmarks/allocation.py --clients=10,100,1000,10000

Clients of a macro cell: 1e5 to 1e8 bits each on 10 MHz, strengths of 1e6 to 1e12 Hz. Prints
milliseconds of a compiled call and seconds of compilation, as a table and one JSON line a count.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from jfedsl.wireless.allocation import minmax

_CLIENTS = flags.DEFINE_list("clients", ["10", "100", "1000", "10000"], "Counts of clients.")
_REPEATS = flags.DEFINE_integer("repeats", 50, "Timed calls of each.", lower_bound=1)

BANDWIDTH = 1e7


def measure(clients: int) -> tuple[float, list[float]]:
    """Seconds of compilation, and milliseconds of each call."""
    random = np.random.default_rng(0)
    seconds = random.uniform(0, 1, clients)
    bits, strength = 10 ** random.uniform(5, 8, clients), 10 ** random.uniform(6, 12, clients)
    arguments = jax.device_put([np.float32(x) for x in (seconds, bits, strength, BANDWIDTH)])
    began = time.perf_counter()
    compiled = jax.jit(minmax).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    times = []
    for _ in range(_REPEATS.value + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(1e3 * (time.perf_counter() - began))
    return compile_seconds, times[1:]


def main(_: list[str]) -> None:
    """Measures and prints."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; ms a call")
    print(f"{'clients':>8}{'median':>9}{'min':>9}{'max':>9}{'compile s':>11}")
    lines = []
    for clients in map(int, _CLIENTS.value):
        compile_seconds, times = measure(clients)
        median = statistics.median(times)
        print(
            f"{clients:>8}{median:>9.3f}{min(times):>9.3f}{max(times):>9.3f}{compile_seconds:>11.2f}"
        )
        lines.append(
            {"clients": clients, "compile_seconds": compile_seconds, "milliseconds": times}
        )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    app.run(main)
