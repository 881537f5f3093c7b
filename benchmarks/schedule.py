"""Seconds of the schedule of a server that does not wait for all, against the number of clients.

    python benchmarks/schedule.py --clients=100,1000

The schedule and costs of rounds of 5 local steps, a period each, whose server takes messages of a
tenth of the clients of a macro cell: 1e6 bits a message, 1e7 a model, rates of 1e5 to 1e8 bit/s.
Prints seconds of a compiled call and of compilation, as a table.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array, lax

from jfedsl.wireless.arrival_cost import cost_of_steps
from jfedsl.wireless.network import MACRO_CELL
from jfedsl.wireless.radio import Conditions, Deployment, FlopCounts, Radio, RadioHardware
from jfedsl.wireless.schedule import MessageBits, Rules, Schedule, first_schedule, steps_of_round

_CLIENTS = flags.DEFINE_list("clients", ["100", "1000"], "Counts of clients.")
_ROUNDS = flags.DEFINE_integer("rounds", 100, "Rounds of a call.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", lower_bound=1)

LOCAL_STEPS = 5


def measure(clients: int) -> tuple[float, list[float]]:
    """Seconds of compilation, and of each call."""
    random, shape = np.random.default_rng(0), (_ROUNDS.value, clients)

    def rows(low: float, high: float) -> Array:
        return jnp.asarray(10 ** random.uniform(low, high, shape), jnp.float32)

    up, down, every = rows(5, 8), rows(5, 8), jnp.ones(shape, bool)
    conditions = Conditions(up, down, rows(-3, 0), rows(-3, 0), every, up, down)
    hardware = RadioHardware(*jnp.full((3, clients), 1e9))
    counts, deployment = FlopCounts(up, up, 1e8), Deployment(hardware, up)
    radio = Radio(MACRO_CELL, deployment, counts, "equal", False, None, None, None)
    message, model = jnp.full(clients, 1e6), jnp.full(clients, 1e7)
    bits = MessageBits(message, message, model, model)
    rules = Rules(clients // 10, 0, LOCAL_STEPS, 1)

    def run(conditions: Conditions, bits: MessageBits) -> Array:
        def one(schedule: Schedule, at: tuple[Conditions, Array]) -> tuple[Schedule, Array]:
            schedule, steps = steps_of_round(rules, radio, bits, *at, schedule)
            return schedule, cost_of_steps(radio, jnp.arange(clients), steps).seconds

        numbers = jnp.arange(_ROUNDS.value, dtype=jnp.int32)
        return lax.scan(one, first_schedule(clients), (conditions, numbers))[1]

    began = time.perf_counter()
    compiled = jax.jit(run).lower(conditions, bits).compile()
    compile_seconds, times = time.perf_counter() - began, []
    for _ in range(_REPEATS.value + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(conditions, bits))
        times.append(time.perf_counter() - began)
    return compile_seconds, times[1:]


def main(_: list[str]) -> None:
    """Measures and prints."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; s a call")
    print(f"{'clients':>8}{'median':>9}{'min':>9}{'max':>9}{'compile s':>11}")
    for clients in map(int, _CLIENTS.value):
        compile_seconds, times = measure(clients)
        ends = min(times), max(times)
        print(f"{clients:>8}{statistics.median(times):>9.3f}", end="")
        print(f"{ends[0]:>9.3f}{ends[1]:>9.3f}{compile_seconds:>11.2f}")


if __name__ == "__main__":
    app.run(main)
