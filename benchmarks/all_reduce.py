"""Seconds of a sum over processes; `scaling.py` starts this script in each process.

The first process prints JSON: seconds by bytes of the vector.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first process.", required=True
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.", required=True)
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.", required=True)
_BYTES = flags.DEFINE_list("bytes", "1024,1048576", "Sizes of float32 vectors.")
_SUMS_A_CALL = 50
_CALLS = 7


def seconds_of(mesh: Mesh, size: int) -> float:
    """Seconds of one sum of float32 `[size]`, the median over calls."""

    def sums(x: Array) -> Array:
        def mean(_: int, y: Array) -> Array:
            return lax.psum(y, "process") / mesh.size

        return lax.fori_loop(0, _SUMS_A_CALL, mean, x)

    sharded = PartitionSpec("process")
    mapped = jax.shard_map(sums, mesh=mesh, in_specs=sharded, out_specs=sharded, check_vma=False)
    run = jax.jit(mapped)
    ones = np.ones((mesh.size, size), np.float32)
    x = jax.make_array_from_callback(ones.shape, NamedSharding(mesh, sharded), lambda i: ones[i])
    times = []
    for _ in range(_CALLS + 1):
        began = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append((time.perf_counter() - began) / _SUMS_A_CALL)
    return statistics.median(times[1:])


def main(_: list[str]) -> None:
    """Measures and prints."""
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    mesh = Mesh(np.array(jax.devices()), ("process",))
    itemsize = jnp.dtype(jnp.float32).itemsize
    seconds = {size: seconds_of(mesh, int(size) // itemsize) for size in _BYTES.value}
    if jax.process_index() == 0:
        print(json.dumps(seconds))


if __name__ == "__main__":
    app.run(main)
