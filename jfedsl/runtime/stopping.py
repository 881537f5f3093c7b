"""Signals that ask a run to stop: it saves a checkpoint first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from jfedsl.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; preemption, the end of a job's time


class Stop:
    """Signals while it is entered; they raise `Stopped`, at once or later.

    Only the main thread gets signals. Those that the process ignores stay ignored.
    """

    def __init__(self) -> None:
        self.asked = 0  # the first signal that waits to be obeyed
        self._later = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked or not self._later:
            raise Stopped("interrupted", number)
        self.asked = number

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within, the first signal only sets `asked`; a second one raises."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
        if self.asked:  # since somebody last looked
            raise Stopped("interrupted", self.asked)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds an interruption back until the end; Orbax's threads fail noisily in the middle."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before in (None, signal.SIG_IGN):
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
