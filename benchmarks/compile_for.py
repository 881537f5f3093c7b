"""Whether a run compiles for accelerators that are not here, what it needs, and what it is made of.

    python benchmarks/compile_for.py --target=v5e:2x2 --model=small --clients=100

Takes all flags of a training run. Compiles its round, its evaluation and the measurement of the
bound's constants, and executes nothing. TPUs need the package libtpu (pip install 'jfedsl[tpu]'),
an H100 the CUDA plugin of JAX (pip install 'jfedsl[cuda]'). Prints a table and one JSON line a
program; exits with 1 if a program does not compile or does not fit.

Peak memory is what XLA plans for a device. Kernels are fusions, library calls, products and
convolutions in the program's loops. Collectives, their bytes, FLOPs of products and bytes that a
device reads and writes in its memory are counted as often as loops run, for one round; FLOPs of
library calls, which GPUs use, are not known. Seconds are those of the compiler, which counts the
body of a loop once.
"""

import json
import os
import sys

if not any("h100" in argument for argument in sys.argv):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else JAX would look for a TPU at every start

import jax
from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.run.targets.programs import PROGRAMS, Program, compile_for

_TARGET = flags.DEFINE_string("target", "v5e:2x2", "TPU:SHAPE, such as v5e:2x2, or h100.")
_PROGRAMS = flags.DEFINE_list("programs", list(PROGRAMS), "Programs to compile.")


def table(programs: list[Program]) -> str:
    """A row for each program."""
    lines = [
        f"{'program':<13}{'compile s':>10}{'peak MB':>9}{'of MB':>9}{'kernels':>9}{'grouped':>9}"
        f"{'collectives':>13}{'their MB':>10}{'GFLOP':>9}{'GB moved':>10}{'ms':>9}"
    ]
    for p in programs:
        count = sum(runs for _, runs, _ in p.collectives)
        sent = sum(runs * size for _, runs, size in p.collectives) / 1e6
        lines.append(
            f"{p.name:<13}{p.compile_seconds:>10.1f}{p.peak_bytes / 1e6:>9.0f}"
            f"{p.device_bytes / 1e6:>9.0f}{p.kernels:>9}{p.grouped_convolutions:>9}"
            f"{count:>13}{sent:>10.2f}{p.flops / 1e9:>9.2f}{p.traffic / 1e9:>10.3f}"
            f"{p.seconds * 1e3:>9.3f}"
        )
        if p.error:
            lines.append(f"  does not compile: {p.error}")
        elif not p.fits:
            lines.append("  does not fit: more memory than the device has")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Compiles and prints."""
    programs = compile_for(config, _TARGET.value, tuple(_PROGRAMS.value))
    print(f"{_TARGET.value}, jax {jax.__version__}")
    print(table(programs))
    for program in programs:
        print(json.dumps({"target": _TARGET.value, **program._asdict()}))
    if not all(program.fits for program in programs):
        sys.exit(1)


if __name__ == "__main__":
    run(main, about=__doc__)
