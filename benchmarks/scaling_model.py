r"""Predicted seconds of a round on many accelerators, from compiled programs.

    python benchmarks/scaling_model.py --targets=v5e,h100 --clients=1000,1000000 -- --model=small
    python benchmarks/scaling_model.py --check

PREDICTED, not measured. Rounds are compiled for 2 and 4 devices and a few numbers of clients, see
`scaling_programs.py`: FLOPs of products, bytes moved in the device's memory, kernels, planned
memory, and the bytes of every collective come from the compiled programs. Peaks and links are the
published ones of `scaling_hardware.py`. What fraction of a peak is reached is ASSUMED, by these
flags, whose defaults follow from measurements on one H100 (benchmarks/results/*_h100.txt):

- --peak_fraction: `vgg19` with 8 clients x 64 ran 128 TFLOP/s in TF32, of 494.7.
- --bandwidth_fraction: the copies of a clients' convolution moved 1.5 TB/s, of 3.35.
- --kernel_seconds: a step of `mlp` with 100 clients x 32 took 0.56 ms, of some 350 kernels.

Without libtpu, and for GPUs, programs are compiled for CPU devices with the forms of the target:
FLOPs and collectives are the same, bytes moved are those of another compiler's fusions.

A round takes the longer one of arithmetic and memory traffic, and after it the start of its
kernels and its collectives: nothing overlaps. With --client_state=host, memories of clients come
and go over the host's link while devices compute. In every round all participants are others than
before. Efficiency is that of so many devices against one device that had memory enough. What takes
longest is named as the bottleneck; `memory` is, where a round does not fit.

Flags after `--` are those of a training run. --check compares the model with rounds of `digits`
measured here, see `scaling_check.py`. Prints Markdown tables and one JSON line a row.
"""

import json
import os
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before JAX looks for devices
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
    )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags
from scaling_check import check
from scaling_hardware import HARDWARE
from scaling_predict import Efficiency, predict
from scaling_programs import Laws, Programs, Size

_TARGETS = flags.DEFINE_list("targets", "v5e,v5p,h100", "Accelerators.")
_DEVICES = flags.DEFINE_list("devices", "8,64,512", "Numbers of accelerators.")
_CLIENTS = flags.DEFINE_list("clients", "1000,10000,100000,1000000", "Numbers of clients.")
_PARTICIPANTS = flags.DEFINE_list("participants", "1000,10000", "Participants in a round.")
_PLACES = flags.DEFINE_list("client_states", "resident,host,stateless", "Values of --client_state.")
_EXAMPLES = flags.DEFINE_integer("examples", 50, "Examples of a client.", 1)
_LEAST = flags.DEFINE_integer("least", 4, "Clients of a device in the smallest program.", 1)
_PEAK = flags.DEFINE_float("peak_fraction", 0.26, "Assumed: of the peak of products.", 0.0, 1.0)
_BANDWIDTH = flags.DEFINE_float("bandwidth_fraction", 0.45, "Assumed: of memory's.", 0.0, 1.0)
_KERNEL = flags.DEFINE_float("kernel_seconds", 1.6e-6, "Assumed: to start a kernel.", 0.0)
_KEEP = flags.DEFINE_string("keep", None, "File that keeps what compiled programs say.")
_CHECK = flags.DEFINE_bool("check", False, "Compare with rounds measured on this machine.")

RUN_FLAGS = (
    "--model=small", "--dataset=noise", "--partition=iid", "--sampling=replacement",
    "--network=none", "--prune_kind=none", "--batch_size=8", "--local_steps=5",
    "--aggregate_every=1",
)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Predicts and prints."""
    run_flags = (*RUN_FLAGS, *arguments[1:])
    if _CHECK.value:  # on a data set that training runs have
        run_flags = (*run_flags, "--dataset=digits")
    programs = Programs(run_flags, _EXAMPLES.value, Path(_KEEP.value) if _KEEP.value else None)
    if _CHECK.value:
        check(programs, run_flags, _LEAST.value)
        return
    for target in _TARGETS.value:
        _table(target, programs)


_COLUMNS = (
    "devices", "clients", "participants", "client_state", "s/round", "efficiency", "of peak",
    "GB a device", "bottleneck",
)  # fmt: skip


def _table(target: str, programs: Programs) -> None:
    """The table of a target, and its JSON lines."""
    hardware, lines = HARDWARE[target], []
    print(f"\n{target}, PREDICTED, not measured\n")
    print(f"| {' | '.join(_COLUMNS)} |\n|{' ---: |' * len(_COLUMNS)}", flush=True)
    assumed = Efficiency(_PEAK.value, _BANDWIDTH.value, _KERNEL.value)
    laws_of: dict[str, Laws] = {}
    for size, place in _sizes():
        compiled = {"host": "stateless"}.get(place, place)  # the memories are outside of the round
        if compiled not in laws_of:
            laws_of[compiled] = programs.laws(target, compiled, place == "all", _LEAST.value)
        laws = laws_of[compiled]
        row = programs.memory_bytes() if place == "host" else 0
        dtype = programs.config(size._replace(clients=4, participants=4), "resident").compute_dtype
        found = predict(laws, hardware, assumed, size, row, dtype)
        alone = predict(laws, hardware, assumed, size._replace(devices=1), row, dtype)
        efficiency = alone.seconds / size.devices / found.seconds
        cells = (
            *size[:1], size.clients, size.participants, place, f"{found.seconds:.4g}",
            f"{efficiency:.0%}", f"{found.of_peak:.1%}", f"{found.memory / 1e9:.3g}",
            found.bottleneck,
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        lines.append(
            {
                "target": target, **size._asdict(), "client_state": place,
                "efficiency": efficiency, **found._asdict(), "bottleneck": found.bottleneck,
                "costs": laws.costs(size)._asdict(),
            }
        )  # fmt: skip
    _print_laws(laws_of)
    for line in lines:
        print(json.dumps(line))


def _sizes() -> list[tuple[Size, str]]:
    """Sizes and places of clients' memories; `all` where all clients take part."""
    cases = []
    counts = [[int(n) for n in each.value] for each in (_DEVICES, _CLIENTS, _PARTICIPANTS)]
    for devices in counts[0]:
        for clients in counts[1]:
            for participants in sorted({min(n, clients) for n in counts[2]}):
                places = _PLACES.value if participants < clients else ["all"]
                cases += [(Size(devices, participants, clients), place) for place in places]
    return cases


def _print_laws(laws_of: dict[str, Laws]) -> None:
    """How far costs were off at the size that they were not fitted to."""
    print()
    for place, laws in laws_of.items():
        errors: dict[str, Any] = {
            name: f"{error:+.1%}" for name, error in laws.errors.items() if abs(error) >= 0.0005
        }
        print(f"Compiled by {laws.compiler}, {place}; errors at the size left out: {errors}")
    print()


if __name__ == "__main__":
    app.run(main)
