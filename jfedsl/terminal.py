"""Terminals: which streams show more than plain lines, and the library `rich` on them.

`rich` is imported when something is shown, since most uses of the package show nothing by it.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that colours text and moves its cursor.

    A program without a console has no standard streams: they are None.
    """
    if stream is None:
        return False
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def console(stream: TextIO) -> "Console":
    """The console of `rich` on a stream, which it takes for a terminal.

    It raises an `OSError` of a stream that is gone, as `print` does.
    """
    from rich.console import Console

    class Terminal(Console):
        """A console that leaves errors to its user, and the cursor as it is."""

        def on_broken_pipe(self) -> None:
            """Raises the error, where `rich` would end the program."""
            raise

        def show_cursor(self, show: bool = True) -> bool:
            """Does nothing: a process that is killed would leave the cursor hidden."""
            return False

    return Terminal(
        file=stream, force_terminal=True, force_jupyter=False, markup=False, emoji=False,
        highlight=False,
    )  # fmt: skip


@contextlib.contextmanager
def download_bar(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A context with a bar on standard error, if that is a terminal.

    Args:
      name: of what is downloaded.
      total: its bytes; None if that is unknown.

    Yields:
      A function that is called with the number of bytes that have come since its last call.
    """
    if not is_terminal(sys.stderr):
        yield lambda count: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
        progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=console(sys.stderr), auto_refresh=False) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.update(task, advance=count, refresh=True)
