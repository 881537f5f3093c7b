"""Signals that ask a run to stop: it saves a checkpoint first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from jfedsl.errors import Stopped

# Ctrl-C; preemption, or the end of a job's time; a terminal that is gone.
SIGNALS = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_PLAIN = (signal.SIG_DFL, signal.default_int_handler)


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
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        first, self.asked = not self.asked, self.asked or number
        if not (first and self._later):
            raise Stopped("interrupted", number)  # a destructor swallows it, but `asked` stays

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within, the first signal only sets `asked`; a second one raises."""
        self._obey()
        self._later = True
        try:
            yield
        finally:
            self._later = False
        self._obey()

    def _obey(self) -> None:
        if self.asked:  # since somebody last looked
            raise Stopped("interrupted", self.asked)


def take_signals(handler: "signal._HANDLER", instead_of: tuple[object, ...] = _PLAIN) -> None:
    """Sets a handler where one of these others is in place; a signal that is ignored stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) in instead_of:
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds an interruption back until the end; Orbax's threads fail noisily in the middle."""
    held: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # One that ends the process at once, as by default, still does.
        before = {n: h for n, h in before.items() if callable(h)}
    for number in before:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
