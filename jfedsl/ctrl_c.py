"""Ctrl-C while a script imports what it needs, which takes seconds: one line.

Scripts import this first. `runtime.script.start` puts Python's own handler back.
"""

import os
import signal
from types import FrameType

STATUS = 128 + signal.SIGINT


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted before anything was done\n")
    os._exit(STATUS)  # an exception would end up in whatever is being imported


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)


def restore() -> None:
    """From now on Ctrl-C raises `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
