"""What share of a training run is spent outside compiled code: rows, events, checkpoints.

    python benchmarks/host.py --flagfile=experiments/presets/digits_uncompressed.flags

Takes every flag of experiments/train.py. The time runs from the first compiled call to the last
checkpoint; building, compiling and pictures are not in it. Prints a line and a JSON line.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from jfedsl.config import Config
from jfedsl.run import training
from jfedsl.run.processes.compilation import compiled
from jfedsl.run.script import run


class Watch:
    """Stands in for what a run compiles with, and notes the times of the compiled calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def compiled(self, function: Any, *arguments: Any) -> Callable[..., Any]:
        """A compiled function whose calls are noted."""
        inner = compiled(function, *arguments)

        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            out = jax.block_until_ready(inner(*arguments))
            self.calls.append((began, time.perf_counter()))
            return out

        return call


class Watched(training._Run):
    """A run that notes how long it saves and when its rounds are done."""

    end, saving = 0.0, 0.0

    def _save(self) -> None:
        began = time.perf_counter()
        super()._save()
        Watched.saving += time.perf_counter() - began

    def _rounds(self) -> None:
        super()._rounds()
        Watched.end = time.perf_counter()


def main(config: Config) -> None:
    """Trains in a folder that is thrown away, and prints."""
    watch = Watch()
    training.compiled, training._Run = watch.compiled, Watched  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        training.train(dataclasses.replace(config, workdir=f"{folder}/run", progress="none"))
    inside = sum(end - began for began, end in watch.calls)
    total = Watched.end - watch.calls[0][0]  # at least one round, as the folder is new
    outside, saving = total - inside, Watched.saving
    print(
        f"{total:.1f} s: {inside / total:.1%} in {len(watch.calls)} compiled calls, "
        f"{saving / total:.1%} saving checkpoints, {(outside - saving) / total:.1%} all else"
    )
    names = ("model", "dataset", "clients", "rounds", "eval_every", "checkpoint_every")
    facts = {name: getattr(config, name) for name in names}
    print(
        json.dumps(
            {**facts, "seconds": total, "compiled_seconds": inside, "saving_seconds": saving}
        )
    )


if __name__ == "__main__":
    run(main)
