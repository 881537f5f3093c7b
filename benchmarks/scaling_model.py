r"""Predicted seconds of a round on many accelerators, from compiled programs.

    python benchmarks/scaling_model.py --targets=v5e,h100 --clients=1000,1000000 -- --model=small
    python benchmarks/scaling_model.py --check=benchmarks/results/scaling_model_cpu.txt

PREDICTED, not measured. Rounds are compiled for 2 and 4 devices and a few numbers of clients, see
`scaling_programs.py`: FLOPs of products, bytes moved in the device's memory, kernels, planned
memory, and the bytes of every collective come from the compiled programs. Peaks and links are the
published ones of `scaling_hardware.py`. What part of a peak is reached is ASSUMED, by these flags;
their defaults follow from measurements on one H100 (benchmarks/results/client_forms_h100.txt):

- --peak_fraction=0.26: `vgg19` with 8 clients x 64 ran 128 TFLOP/s in TF32, of 494.7.
- --kernel_seconds=0.9e-6: a step of `small` with 10 clients x 8 took 0.48 ms, of 524 kernels.
- --bandwidth_fraction: with libtpu 0.45, as the copies of a client's convolution moved 1.5 of 3.35
  TB/s on that H100; TPUs were not measured. Without it 1.27, with which `small` with 1000 clients
  takes the 10.5 ms a step measured there: it is over 1, as not all bytes that are counted reach the
  memory.

Without libtpu, and for GPUs, programs are compiled for CPU devices with the forms of the target:
FLOPs and collectives are the same, bytes moved are those of another compiler's fusions. Programs
compiled for a v5e stand for those of all TPUs.

A round takes the longer one of arithmetic and memory traffic, and after it the start of its
kernels and its collectives: nothing overlaps. With --client_state=host, memories of clients come
and go over the host's link while devices compute. In every round all participants are others than
before. Efficiency is that of so many devices against one device that had memory enough. What takes
longest is named as the bottleneck; `memory` is, where a round does not fit.

Flags after `--` are those of a training run. --check predicts the rounds in results of `scaling.py`
instead, and prints the errors, see `scaling_check.py`. Prints Markdown tables and one JSON line a
row.
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
from scaling_check import check, read
from scaling_hardware import HARDWARE
from scaling_predict import Efficiency, predict
from scaling_programs import Laws, Programs, Size, by_libtpu

_TARGETS = flags.DEFINE_list("targets", "v5e,v5p,h100", "Accelerators.")
_DEVICES = flags.DEFINE_list("devices", "8,64,512", "Numbers of accelerators.")
_CLIENTS = flags.DEFINE_list("clients", "1000,10000,100000,1000000", "Numbers of clients.")
_PARTICIPANTS = flags.DEFINE_list("participants", "1000,10000", "Participants in a round.")
_PLACES = flags.DEFINE_list("client_states", "resident,host,stateless", "Values of --client_state.")
_EXAMPLES = flags.DEFINE_integer("examples", 50, "Examples of a client.", 1)
_LEAST = flags.DEFINE_integer(
    "least", None, "Clients of a device in the smallest program; by default 32 with libtpu, which "
    "keeps what few clients need on the chip, else 4.", 1,
)  # fmt: skip
_PEAK = flags.DEFINE_float("peak_fraction", 0.26, "Assumed: of the peak of products.", 0.0)
_BANDWIDTH = flags.DEFINE_float(
    "bandwidth_fraction", None, "Assumed: of memory's bandwidth, by the bytes counted.", 0.0
)
_KERNEL = flags.DEFINE_float("kernel_seconds", 0.9e-6, "Assumed: to start a kernel.", 0.0)
_KEEP = flags.DEFINE_string("keep", None, "File that keeps what compiled programs say.")
_CHECK = flags.DEFINE_list("check", [], "Results of scaling.py to compare predictions with.")

RUN_FLAGS = (
    "--model=small", "--dataset=noise", "--partition=iid", "--sampling=replacement",
    "--network=none", "--prune_kind=none", "--batch_size=8", "--local_steps=5",
    "--aggregate_every=1",
)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Predicts and prints."""
    kept = Path(_KEEP.value) if _KEEP.value else None
    if _CHECK.value:
        measured, loopback, run_flags = read(_CHECK.value)
        run_flags = [*run_flags, "--network=none", *arguments[1:]]
        programs = Programs(run_flags, _EXAMPLES.value, kept)
        check(programs.laws("cpu", "all", True, _least("cpu")), measured, loopback)
        return
    programs = Programs((*RUN_FLAGS, *arguments[1:]), _EXAMPLES.value, kept)
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
    assumed = _assumed(target)
    laws_of: dict[str, Laws] = {}
    for size, place in _sizes():
        compiled = {"host": "stateless"}.get(place, place)  # the memories are outside of the round
        if compiled not in laws_of:
            laws_of[compiled] = programs.laws(target, compiled, place == "all", _least(target))
        laws = laws_of[compiled]
        row = programs.memory_bytes() if place == "host" else 0
        dtype = programs.config(size._replace(clients=4, participants=4), "resident").compute_dtype
        found = predict(laws, hardware, assumed, size, row, dtype)
        alone = predict(laws, hardware, assumed, size._replace(devices=1), row, dtype)
        efficiency = alone.seconds / size.devices / found.seconds
        cells = (
            size.devices, size.clients, size.participants, place, f"{found.seconds:.4g}",
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
    _print_laws(laws_of, assumed)
    for line in lines:
        print(json.dumps(line))


def _least(target: str) -> int:
    return _LEAST.value or (32 if by_libtpu(target) else 4)


def _assumed(target: str) -> Efficiency:
    bandwidth = 0.45 if by_libtpu(target) else 1.27
    if _BANDWIDTH.value is not None:
        bandwidth = _BANDWIDTH.value
    return Efficiency(_PEAK.value, bandwidth, _KERNEL.value)


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


def _print_laws(laws_of: dict[str, Laws], assumed: Efficiency) -> None:
    """How far costs were off at the size that they were not fitted to."""
    print()
    for place, laws in laws_of.items():
        errors: dict[str, Any] = {
            name: f"{error:+.1%}" for name, error in laws.errors.items() if abs(error) >= 0.0005
        }
        print(f"Compiled by {laws.compiler}, {place}; errors at the size left out: {errors}")
    print(f"Assumed: {assumed._asdict()}\n")


if __name__ == "__main__":
    app.run(main)
