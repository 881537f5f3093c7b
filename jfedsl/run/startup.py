"""What scripts need before they import anything else, which takes seconds.

Importing this module changes the process, so only scripts import it. Signals, and settings that JAX
cannot read, end the script with one line. A closed standard stream becomes an empty one.
`jfedsl.run.script.start` takes over later.
"""

import os
import sys
from types import FrameType, TracebackType

from jfedsl.run.processes.stopping import take_signals

_UNREADABLE = "for environment"  # as JAX says of a setting in the environment


def end(number: int, frame: FrameType | None) -> None:
    """Ends the process, as the handler of a signal."""
    os.write(2, b"error: interrupted before anything was done\n")
    os._exit(128 + number)  # an exception would end up in whatever is being imported


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ValueError) and _UNREADABLE in str(error):
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    sys.__excepthook__(kind, error, trace)


def _open(name: str, mode: str) -> None:
    if getattr(sys, name) is None:  # else the next file that is opened would be the stream
        setattr(sys, name, open(os.devnull, mode))


for stream, how in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    _open(stream, how)
take_signals(end)
sys.excepthook = _fail
