"""A bar on standard error that shows how many rounds are done."""

import contextlib
import sys
import time

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from jfedsl.terminal import console

_LEAST_SECONDS = 0.1  # between two times that the bar is drawn


class Bar:
    """Rounds done, and a text about the last one.

    Nothing but its methods draws it. A thread of `rich` that did would meet the errors of a
    terminal that is gone where no run can save a checkpoint because of them.
    """

    def __init__(self, done: int, rounds: int) -> None:
        """Shows the bar; what is printed to a terminal until `close` appears above it.

        Args:
          done: completed rounds.
          rounds: of the whole run.
        """
        # A narrow terminal has no room for the bar, then none for the end of the text.
        text = "round {task.completed}/{task.total}: {task.description}"
        column = Column(no_wrap=True, overflow="ellipsis")
        self._bar = Progress(
            TextColumn(text, markup=False, table_column=column),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            console=console(sys.stderr),
            auto_refresh=False,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("starting", total=rounds, completed=done)
        self._drawn = 0.0
        self._bar.start()

    def announce(self, text: str) -> None:
        """Shows at once what the run does before its first round is completed.

        Raises:
          OSError: the terminal is gone.
        """
        self._bar.update(self._task, description=text, refresh=True)

    def update(self, done: int, text: str) -> None:
        """Shows how far the run is, unless the bar was drawn just before.

        Args:
          done: completed rounds.
          text: about the last of them.

        Raises:
          OSError: the terminal is gone.
        """
        self._bar.update(self._task, completed=done, description=text)
        now = time.monotonic()
        if now - self._drawn >= _LEAST_SECONDS:
            self._drawn = now
            self._bar.refresh()

    def close(self) -> None:
        """Shows the last round, and leaves the bar on the screen."""
        with contextlib.suppress(OSError):  # of a terminal that is gone, as `update` has raised
            self._bar.stop()
