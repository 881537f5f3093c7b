"""The fraction of a run's time that the host takes between compiled calls, and for checkpoints.

    python benchmarks/host.py --flagfile=experiments/presets/digits_uncompressed.flags

Takes every flag of experiments/train.py. The time is from the first compiled call to the last
checkpoint, without building, compiling and the pictures at the end; labels.png, drawn after the
first call, counts. The time of a call includes evaluation, up to the rows of its rounds. Prints a
line and a JSON line.
"""

import dataclasses
import json
import tempfile
import time

from jfedsl.config import Config
from jfedsl.engine.state import State
from jfedsl.run.hooks import Hook, Saved
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import Row
from jfedsl.run.training import train


class Watch(Hook):
    """Adds up the seconds of the calls and of the checkpoints."""

    def __init__(self) -> None:
        """No call and no checkpoint yet."""
        self.calls, self.in_calls, self.saving = 0, 0.0, 0.0
        self.began, self.end = float("inf"), 0.0
        self._save_began: float | None = None

    def before_call(self, round_: int, state: State) -> State:
        """Notes when the first call begins."""
        self.began = min(self.began, time.perf_counter())
        self._save_began = None  # asked before the first call, to check names; nothing was saved
        return state

    def on_rows(self, rows: list[Row]) -> None:
        """Adds the seconds of a call."""
        self.calls += 1
        self.in_calls += sum(row["host_seconds"] for row in rows)

    def on_checkpoint(self) -> Saved:
        """Notes when a checkpoint begins."""
        self._save_began = time.perf_counter()
        return Saved()

    def interruption(self) -> None:
        """Adds the seconds of a checkpoint, after which the loop calls this hook."""
        self.end = time.perf_counter()
        if self._save_began is not None:
            self.saving += self.end - self._save_began
            self._save_began = None


def main(config: Config) -> None:
    """Trains in a temporary folder and prints the fractions."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        train(dataclasses.replace(config, workdir=f"{folder}/run", progress="none"), [watch])
    total = watch.end - watch.began
    in_calls, saving = watch.in_calls, watch.saving
    remaining = total - in_calls - saving
    print(
        f"{total:.1f} s: {in_calls / total:.1%} in {watch.calls} calls, "
        f"{saving / total:.1%} saving checkpoints, {remaining / total:.1%} all else"
    )
    names = ("model", "dataset", "clients", "rounds", "eval_every", "checkpoint_every")
    facts = {name: getattr(config, name) for name in names}
    seconds = {"seconds": total, "call_seconds": in_calls, "saving_seconds": saving}
    print(json.dumps({**facts, **seconds}))


if __name__ == "__main__":
    run(main)
