"""Speed of packing messages into bytes and unpacking them, in MB of float32 a second.

    taskset -c 0 python benchmarks/packing.py

The tensor has 16M entries (64 MiB as float32). Either all are sent, or half of them by a mask that
both ends share, or the tenth with the largest magnitudes, whose positions are sent too; in buckets
of 512. `pack` starts from a message on the host; `unpack` ends with the values. The last row is all
that a sender does at 8 bits: quantize (compiled), fetch, pack. Prints medians, as a table and one
JSON line a row.
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
_ENTRIES = flags.DEFINE_integer("entries", 1 << 24, "Entries of the tensor.", lower_bound=1)

BITS = (1, 4, 8, 12, 16, 32)
MASKS: dict[str, Compressor] = {"all": chain(), "half, shared": dropout(0.5), "top 10 %": topk(0.1)}


def sender(compressor: Compressor) -> Callable[[Array, Array], Message]:
    """The compiled function `(key, values) -> message`."""

    @jax.jit
    def send(key: Array, values: Array) -> Message:
        return compressor.send(compressor.init(values), key, Message(values))[1]

    return send


def rate(function: Callable[[], Any]) -> float:
    """MB of float32 a second at which the function processes the tensor, a median."""
    times = []
    for _ in range(_REPEATS.value + 1):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return 4 * _ENTRIES.value / statistics.median(times[1:]) / 1e6


def measure(message: Message) -> dict[str, float]:
    """Rates of packing and unpacking, and MB of the packed message."""
    data, message_outline = pack([message]), outline(message)
    return {
        "pack": rate(lambda: pack([message])),
        "unpack": rate(lambda: unpack(data, [message_outline])[0]),
        "megabytes": len(data) / 1e6,
    }


def report(sent: str, bits: int, rates: dict[str, float]) -> None:
    """Prints a row and its JSON line."""
    print(f"{sent:<16}{bits:>3} bits  " + "  ".join(f"{n} {x:.0f}" for n, x in rates.items()))
    print(json.dumps({"entries": _ENTRIES.value, "what": sent, "bits": bits, **rates}), flush=True)


def main(_: list[str]) -> None:
    """Measures and prints."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; MB of float32 a second")
    key, values = jax.random.key(1), jax.random.normal(jax.random.key(0), (_ENTRIES.value,))
    for sent, mask in MASKS.items():
        masked = sender(mask)(key, values)
        for bits in BITS:
            quantize = jax.jit(
                lambda key, masked, bits=bits: uniform(bits).send((), key, masked)[1]
            )
            report(sent, bits, measure(jax.device_get(quantize(key, masked))))
    send = sender(uniform(8))
    of_sender = {
        "quantize": rate(lambda: send(key, values)),
        "quantize and pack": rate(lambda: pack([jax.device_get(send(key, values))])),
    }
    report("sender", 8, of_sender)


if __name__ == "__main__":
    app.run(main)
