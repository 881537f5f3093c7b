"""How fast messages become bytes and messages again, in MB of float32 a second.

    taskset -c 0 python benchmarks/packing.py

A tensor of 16M entries (64 MiB as float32), all of it, half of it by a mask that both ends share,
and a tenth of it chosen by magnitude, which the receiver is told; in buckets of 512. `pack` starts
from a message on the host; `unpack` ends with the values. Last, all that a sender does at 8 bits:
quantize (compiled), fetch, pack. Medians, as a table and one JSON line a row.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags
from jax import Array

from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.dropout import dropout
from jfedsl.compression.message import Message
from jfedsl.compression.packing import outline, pack, unpack
from jfedsl.compression.quantization import uniform
from jfedsl.compression.sparsification import topk

_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each.", lower_bound=1)
_ENTRIES = flags.DEFINE_integer("entries", 1 << 24, "Of the tensor.", lower_bound=1)

BITS = (1, 4, 8, 12, 16, 32)
MASKS: dict[str, Compressor] = {"all": chain(), "half, shared": dropout(0.5), "top 10 %": topk(0.1)}


def sender(compressor: Compressor) -> Callable[[Array, Array], Message]:
    """Compiled: `(key, values) -> message`."""

    @jax.jit
    def send(key: Array, values: Array) -> Message:
        return compressor.send(compressor.init(values), key, Message(values))[1]

    return send


def rate(function: Callable[[], Any]) -> float:
    """Median MB of float32 a second."""
    times = []
    for _ in range(_REPEATS.value + 1):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return 4 * _ENTRIES.value / statistics.median(times[1:]) / 1e6


def measure(message: Message) -> dict[str, float]:
    """Rates both ways, and what the message takes."""
    data, known = pack([message]), outline(message)
    return {
        "pack": rate(lambda: pack([message])),
        "unpack": rate(lambda: unpack(data, [known])[0]),
        "megabytes": len(data) / 1e6,
    }


def report(what: str, bits: int, found: dict[str, float]) -> None:
    """A row and its JSON line."""
    print(f"{what:<16}{bits:>3} bits  " + "  ".join(f"{n} {x:.0f}" for n, x in found.items()))
    print(json.dumps({"entries": _ENTRIES.value, "what": what, "bits": bits, **found}), flush=True)


def main(_: list[str]) -> None:
    """Measures and prints."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; MB of float32 a second")
    key, values = jax.random.key(1), jax.random.normal(jax.random.key(0), (_ENTRIES.value,))
    for what, mask in MASKS.items():
        left = sender(mask)(key, values)
        for bits in BITS:
            quantize = jax.jit(lambda key, left, bits=bits: uniform(bits).send((), key, left)[1])
            report(what, bits, measure(jax.device_get(quantize(key, left))))
    send = sender(uniform(8))
    whole = {
        "quantize": rate(lambda: send(key, values)),
        "quantize and pack": rate(lambda: pack([jax.device_get(send(key, values))])),
    }
    report("sender", 8, whole)


if __name__ == "__main__":
    app.run(main)
