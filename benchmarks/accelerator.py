r"""All questions about a GPU or TPU in one command, answered within minutes.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --show=benchmarks/results/accelerator_NAME.jsonl

The most important first: the device, versions and peaks of matrix products; whole rounds and their
targets on a card, against PyTorch where the extra `bench` is installed and sees the device, in a
process of its own, in turn; the main job of `experiments/train.py` to its accuracy; errors of int8
and of every form of convolutions against float64; grouped convolutions of clients against one
batched product; compilation, planned memory and kernels of a round with few and with many clients;
clients computed at once. Where time is left, more targets and some tests of the suite.

Every result is a line of JSON in --output as soon as it is measured, so that a run that is cut off
leaves what it had. The table is printed at the end, and from a file with --show. A case may take
twice its time, at the cost of later ones, and is stopped then. It is skipped where less than a
third of its time is left of --minutes. --quick tries all of it on tiny shapes, whose numbers and
verdicts mean nothing; it has no rival.
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import accelerator_kernels as kernels
import accelerator_rounds as rounds
import accelerator_runs as runs
from absl import app, flags
from accelerator_numerics import numerics
from accelerator_report import Line, ResultsFile, read, summary, table, unmeasured
from accelerator_worker import Compute, Settings, Unfinished, Worker

_MINUTES = flags.DEFINE_float("minutes", 8.0, "Minutes for all of it.", lower_bound=0.1)
_QUICK = flags.DEFINE_bool("quick", False, "Try everything on tiny shapes, on any device.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "File of results; default by device under benchmarks/results/."
)
_SHOW = flags.DEFINE_string("show", None, "Measure nothing; print the table of this file.")

_PARTS = flags.DEFINE_list("parts", None, "Measure these parts only; names as in the table.")

_RESULTS = Path(__file__).parent / "results"
_PATIENCE = 2  # times the seconds of a case, after which it is stopped


class Case(NamedTuple):
    """Something to measure.

    Attributes:
      part: of the table.
      name: in messages; results have names of their own.
      compute: yields its results.
      seconds: that it takes on an H200, the compilation included.
      apart: whether it starts processes that need the device for themselves.
      alike: whether with tiny shapes it repeats an earlier one, and is left out then.
      extra: whether eight minutes do not suffice for it too.
    """

    part: str
    name: str
    compute: Compute
    seconds: int
    apart: bool = False
    alike: bool = False
    extra: bool = False


# The most important first. The device, forms, numerics (of more forms) and the main job were
# measured. Rounds of small and vgg19 were measured in processes of their own, which take some 10
# seconds to start. All others are estimates: some 10 to build and compile, and 15 for a rival.
CASES = (
    Case("device", "device and peaks", kernels.device, 20),
    Case("targets", "small", rounds.small, 35),
    Case("targets", "vgg19, 8 x 64, float32", rounds.vgg19_few_float32, 30),
    Case("targets", "vgg19, 8 x 64, bfloat16", rounds.vgg19_few_bfloat16, 20),
    Case("targets", "vgg19, 100 x 64, bfloat16", rounds.vgg19_many_bfloat16, 50, alike=True),
    Case("targets", "pfl-research's workload", rounds.pfl_workload, 30),
    Case("targets", "compression", rounds.compression, 25),
    Case("targets", "LoRA, bfloat16", rounds.lora_bfloat16, 25),
    Case("training", "main job", runs.training, 30),
    Case("numerics", "all forms", numerics, 50),
    Case("forms", "layers of small", kernels.small_forms, 35),
    Case("forms", "layers of vgg", kernels.vgg_forms, 20, alike=True),
    Case("compilation", "10, 100 and 1000 clients", rounds.compilation, 30),
    Case("chunks", "chunk sweep", rounds.chunks, 25),
    Case("targets", "LoRA, float32", rounds.lora_float32, 35, alike=True, extra=True),
    Case(
        "targets", "vgg19, 100 x 64, float32", rounds.vgg19_many_float32, 60, alike=True, extra=True
    ),
    Case("tests", "some tests", runs.tests, 60, apart=True, extra=True),
)


def lines(cases: Sequence[Case], settings: Settings, seconds: float) -> Iterator[Line]:
    """Results of cases, each as soon as it is there, and what became of the others.

    Args:
      cases: in this order.
      settings: for the cases; whether PyTorch is a rival follows from the first one.
      seconds: for all of them.
    """
    worker, end = Worker(), time.monotonic() + seconds
    stretch = max(1.0, seconds / planned(CASES))  # more minutes mean more patience
    try:
        for case in cases:
            left = end - time.monotonic()
            if left < case.seconds / 3:
                note = f"{left:.0f} s are left for it, it takes about {case.seconds}"
                yield unmeasured(case.part, case.name, "skipped", note)
                continue
            limit = min(left, _PATIENCE * stretch * case.seconds)
            if case.apart:
                worker.close()
            try:
                for entry in worker.entries(case.compute, settings, limit):
                    sees = entry.facts.get("torch_sees_device", settings.against_torch)
                    settings = settings._replace(against_torch=sees and not settings.quick)
                    yield entry.to_line(case.part)
            except Unfinished as error:
                yield unmeasured(case.part, case.name, error.status, error.note)
    finally:
        worker.close()


def planned(cases: Sequence[Case]) -> int:
    """Seconds that cases take, without those for which eight minutes do not suffice."""
    return sum(case.seconds for case in cases if not case.extra)


def _file_of(line: Line) -> Path:
    """Where results go: a file that is named by the kind of device."""
    if _OUTPUT.value:
        return Path(_OUTPUT.value)
    kind = line["facts"].get("device_kind", "unknown")
    name = re.sub(r"\W+", "_", kind).strip("_").lower() + "_quick" * _QUICK.value
    return _RESULTS / f"accelerator_{name}.jsonl"


def _cases() -> list[Case]:
    """Those of the parts that are asked for; the device comes always, as others depend on it."""
    names = dict.fromkeys(case.part for case in CASES)
    asked = names if _PARTS.value is None else dict.fromkeys(["device", *_PARTS.value])
    for name in asked:
        if name not in names:
            raise app.UsageError(f"--parts={name}: there are {', '.join(names)}")
    return [case for case in CASES if case.part in asked and not (_QUICK.value and case.alike)]


def _end(*_: Any) -> None:
    raise SystemExit("ended by a signal; what was measured is kept")


def main(_: list[str]) -> None:
    """Measures and prints, or prints what was measured."""
    if _SHOW.value:
        print(table(read(Path(_SHOW.value))))
        return
    signal.signal(signal.SIGTERM, _end)
    # PyTorch and tests need memory of the device too, and compilation is timed.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    file, measured, began = None, [], time.monotonic()
    cases, settings = _cases(), Settings(_QUICK.value, repeats=2 if _QUICK.value else 5)
    total = 60 * _MINUTES.value
    if not _QUICK.value:
        print(f"{planned(cases)} of {total:.0f} s are planned", flush=True)
    try:
        for line in lines(cases, settings, total):
            file = file or ResultsFile(_file_of(line))
            file.append(line)
            measured.append(line)
            print(f"[{time.monotonic() - began:4.0f} s] {summary(line)}", flush=True)
    finally:
        if file:
            print(f"\n{table(measured)}\n\n{file.path}", flush=True)


if __name__ == "__main__":
    app.run(main)
