"""Signals that interrupt a run, which saves a checkpoint first."""

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
    """A context in which signals raise `Stopped`, at once or, within `later`, later.

    Only the main thread handles signals. Signals that the process ignores stay ignored.

    Attributes:
      asked: number of the first signal that has come; 0 before.
    """

    def __init__(self) -> None:
        self.asked = 0
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
            raise Stopped("interrupted", number)  # in a destructor it is lost, but `asked` stays

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """A context in which the first signal only sets `asked`; a second signal raises."""
        self._obey()
        self._later = True
        try:
            yield
        finally:
            self._later = False
        self._obey()

    def _obey(self) -> None:
        if self.asked:
            raise Stopped("interrupted", self.asked)


def take_signals(handler: "signal._HANDLER", instead_of: tuple[object, ...] = _PLAIN) -> None:
    """Sets a handler for each signal whose handler is one of `instead_of`.

    A signal that is ignored stays ignored, unless SIG_IGN is among them.
    """
    for number in SIGNALS:
        if signal.getsignal(number) in instead_of:
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds signals back until the end: interrupted, Orbax's threads would print tracebacks."""
    held: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # A signal that ends the process at once, the default, still does.
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
