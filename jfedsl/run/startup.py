"""What scripts need before they import anything else, which takes seconds.

Importing this module changes the process, so only scripts import it. Signals, and settings that JAX
cannot read, end the script with one line. A closed standard stream becomes an empty one.
`jfedsl.run.script.start` takes over later.
"""

import os
import sys
from types import FrameType, TracebackType

from jfedsl.run.processes.stopping import take_signals

_UNREADABLE = "for environment"  # in JAX's error about a setting in the environment


def end(number: int, frame: FrameType | None) -> None:
    """Handles a signal: ends the process."""
    os.write(2, b"error: interrupted before anything was done\n")
    os._exit(128 + number)  # the module being imported might catch an exception


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ValueError) and _UNREADABLE in str(error):
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    sys.__excepthook__(kind, error, trace)


def _open(name: str, mode: str) -> None:
    if getattr(sys, name) is None:  # else the next file to be opened would become the stream
        setattr(sys, name, open(os.devnull, mode))


for stream, how in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    _open(stream, how)
take_signals(end)
sys.excepthook = _fail
