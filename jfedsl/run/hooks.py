"""Hooks: what acts between the compiled calls of a run, and when.

The host loop (`jfedsl/run/loop.py`) runs many rounds in one compiled call, and calls hooks before,
during and after it. The loop knows no hook by name: the run logger, the progress, the constants
recorder, the client store and early stopping are hooks, and `train` takes a user's own beside them.

At each moment the hooks are called in order, the standard ones first; at `close` and `finish` in
reverse order. A user passes the same hooks in every process of a run.

Where cuts are chosen anew (`--replan_every`), the run goes on each time as if it had been stopped:
`close` is called, and then `begin` with the checkpoint of that round.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import State
from jfedsl.errors import UserError
from jfedsl.files.seals import Seal
from jfedsl.run.assemble import Experiment
from jfedsl.run.clock import Last
from jfedsl.run.storage.metrics import Row


class Saved(NamedTuple):
    """What a checkpoint holds beside the state.

    No two hooks may use the same name; a run with such hooks is refused before its first round.

    Attributes:
      values: plain values, such as JSON has, by name; those of the first process are saved.
      files: seals of the files of the run that only grow, by file name; those of the first process.
      arrays: arrays on the host, none of them empty, by name; the same in every process.
    """

    values: Mapping[str, Any] = {}
    files: Mapping[str, Seal] = {}
    arrays: Mapping[str, np.ndarray] = {}


class RunStart(NamedTuple):
    """A run before its first compiled call.

    Attributes:
      config: the settings.
      experiment: the run, put together.
      folder: the workdir.
      round: completed rounds: 0, or those of the checkpoint that the run resumes from.
      state: the state after these rounds; its arrays are gone once the first call has begun.
      saved: what the hooks saved in that checkpoint; empty for a new run.
      rows: rows of metrics.csv of the completed rounds, as `on_rows` gave them to the hooks that
        were there then.
    """

    config: Config
    experiment: Experiment
    folder: Path
    round: int
    state: State
    saved: Saved
    rows: Sequence[Row] = ()


class Point(NamedTuple):
    """A run between two compiled calls.

    Attributes:
      round: completed rounds.
      state: the state; its arrays are gone once the next call has begun.
      rows: rows of metrics.csv of the last call; empty before the first call. The last row has the
        columns `test_*`, or `validation_*`, if the round was evaluated.
      last: what the last round cost, and its participants; None without a simulated network.
      record: of the rounds of the last call, `[rounds, ...]` on the host; None before the first.
    """

    round: int
    state: State
    rows: list[Row]
    last: Last | None
    record: RoundRecord | None = None


class Hook:
    """A hook that does nothing; subclasses override the moments at which they act.

    Each method is called in every process, unless it says otherwise. A hook that writes or prints
    asks `jfedsl.run.processes.distributed.first()`, so that one process does.

    Attributes:
      every: no compiled call crosses a multiple of this number of rounds; None for no such limit.
        It also limits how many rounds the compiled function has room for.
    """

    every: int | None = None

    def begin(self, start: RunStart) -> None:
        """Called once, before anything is compiled; again after each choice of cuts.

        Keep what later moments need, and not `start` itself, which holds large arrays.
        """

    def announce(self, text: str) -> None:
        """Called before something that takes long, such as compiling, with a text to show."""

    def next_due(self, round_: int) -> int | None:
        """The next round after `round_` at which a call has to end; None for no such round.

        All processes must return the same.
        """
        return None

    def before_call(self, round_: int, state: State) -> State:
        """Called before each compiled call; returns the state to go on from.

        Args:
          round_: completed rounds.
          state: the state after them. All processes must change it in the same way, if at all, and
            keep its shapes.
        """
        return state

    def during_call(self, round_: int, state: State) -> None:
        """Called while the devices compute.

        Args:
          round_: completed rounds at the end of the call.
          state: the state at its end. To read it is to wait for the devices.
        """

    def on_rows(self, rows: list[Row]) -> None:
        """Called with rows of metrics.csv as soon as they are known; they are not to be changed.

        Their numbers have the digits of the file, so that `begin` of a resumed run has the same.

        If a round makes a number that is not finite, the rows before it come here before the run
        fails, and no other moment follows but `close`.
        """

    def between_calls(self, point: Point) -> None:
        """Called before the first call, and after each one, before a checkpoint is saved."""

    def should_end(self) -> bool:
        """Whether training should end early; asked after every evaluated round.

        One process suffices to end the run in all of them. A checkpoint, the summary and the
        pictures follow as after the last round. The same command ends again without training, if
        the hook, with what it saved, still says so; without the hook it trains the other rounds.
        """
        return False

    def end_reason(self) -> str:
        """Why `should_end` says so, in a few words that the table and the summary of a run show."""
        return f"the hook {type(self).__name__} ended it"

    def on_checkpoint(self) -> Saved:
        """Called when a checkpoint is saved; returns what `begin` needs in order to resume.

        Also called once after all hooks have begun, so that names are compared before the first
        round; what it returns then is not saved.
        """
        return Saved()

    def interruption(self) -> BaseException | None:
        """The error with which the run has to stop, or None; asked after every call.

        A checkpoint is saved first. Then this process raises the error, and the others raise
        `jfedsl.errors.Stopped`.
        """
        return None

    def on_error(self, error: BaseException) -> None:
        """Called before `close` if an error, or an interruption, ends the run."""

    def close(self) -> None:
        """Called once for each `begin`, also in a run that failed; releases what that opened."""

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Called after `close`, in the first process, if no rounds are left or the run ended early.

        Args:
          entries: plain values for summary.json, by name, of the hooks that came before.

        Returns:
          The entries with those of this hook.
        """
        return entries


def check_names(hooks: Sequence[Hook], run: Saved) -> None:
    """Refuses hooks that save something under one name, or under a name of the run.

    Args:
      hooks: that have begun.
      run: what a checkpoint of the run holds without them.

    Raises:
      UserError: names both, and what they save.
    """
    parts = [("the run", run), *((type(hook).__name__, hook.on_checkpoint()) for hook in hooks)]
    for kind in Saved._fields:
        owners: dict[str, str] = {}
        for owner, part in parts:
            for name in getattr(part, kind):
                if name in owners:
                    pair = f"{owners[name]} and {owner}"
                    text = f"two parts of a run save {name!r} in a checkpoint: {pair}"
                    raise UserError(f"{text}; leave one out, or rename what it saves")
                owners[name] = owner
