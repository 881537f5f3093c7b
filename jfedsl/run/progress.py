"""Progress of a run, as a bar on a terminal or as plain lines."""

import sys
import time
from typing import TYPE_CHECKING

from jfedsl.engine.state import State
from jfedsl.run.hooks import Hook, Point
from jfedsl.run.storage.task_record import CLASSIFICATION, TaskRecord
from jfedsl.terminal import is_terminal

if TYPE_CHECKING:
    from jfedsl.run.bar import Bar


class Progress(Hook):
    """Shows rounds, loss, metric and the time left; for one process of a run.

    The time left follows from the rounds since `start`, with everything that happens between them.

    A terminal that is gone interrupts the run, after a checkpoint.
    """

    def __init__(
        self, style: str, done: int, rounds: int, task: TaskRecord = CLASSIFICATION
    ) -> None:
        """Shows nothing yet.

        Args:
          style: auto, bar, lines or none.
          done: completed rounds.
          rounds: of the whole run.
          task: what the run is judged by.
        """
        if style == "auto":
            style = "bar" if is_terminal(sys.stderr) else "lines"
        self._style, self._done, self._rounds = style, done, rounds
        self._start: tuple[int, float] | None = None  # rounds completed by then, and the time
        self._shown = False  # whether any round of this process has been shown
        self._error: OSError | None = None  # why a round could not be shown
        self._task = task
        self._tested = "-"  # until the first evaluation
        self._bar: Bar | None = None

    def announce(self, text: str) -> None:
        """Shows what the run does before its first round is completed."""
        if self._style == "bar":
            self._shown_bar().announce(text)
        elif self._style == "lines":
            print(text, flush=True)

    def before_call(self, round_: int, state: State) -> State:
        """Starts the clock once the first rounds are shown; changes nothing."""
        if self._shown:
            self.start(round_)
        return state

    def between_calls(self, point: Point) -> None:
        """Shows the last round.

        An `OSError`, such as of a terminal that is gone, waits for `interruption`: raised here, it
        would lose the rounds since the last checkpoint.
        """
        if not point.rows:
            return
        try:
            last = point.rows[-1]
            self.update(point.round, last["train_loss"], last.get(self._task.tested))
        except OSError as error:
            self._error = error
        self._shown = True

    def interruption(self) -> OSError | None:
        """Why a round could not be shown, or None."""
        return self._error

    def start(self, round_: int) -> None:
        """Starts the clock if it is not running: compiling, loading and warming up are over."""
        if self._start is None:
            self._start = round_, time.monotonic()

    def update(self, round_: int, loss: float | None, tested: float | None) -> None:
        """Shows a round.

        Args:
          round_: completed rounds.
          loss: the training loss; None if no client computed one.
          tested: the metric of the test; None repeats the last one.
        """
        if tested is not None:
            self._tested = f"{tested:.4f}"
        shown = "-" if loss is None else f"{loss:.4f}"
        text = f"loss {shown}, {self._task.label} {self._tested}{self._left(round_)}"
        if self._style == "bar":
            self._shown_bar().update(round_, text)
        elif self._style == "lines":
            print(f"round {round_}/{self._rounds}: {text}", flush=True)

    def close(self) -> None:
        """Ends the bar and leaves it on the screen."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, round_: int) -> str:
        """The end of a text, about the time left; empty while nothing is known about it."""
        if self._start is None or round_ == self._start[0]:
            return ""
        first, began = self._start
        seconds = (time.monotonic() - began) / (round_ - first)
        return f", {seconds * (self._rounds - round_):.0f} s left"

    def _shown_bar(self) -> "Bar":
        """The bar, which is made when it is first needed: `rich` takes time to import."""
        if self._bar is None:
            from jfedsl.run.bar import Bar

            self._bar = Bar(self._done, self._rounds)
        return self._bar
