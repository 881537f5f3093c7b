"""The process that holds the accelerator and computes the cases of `accelerator.py` in it.

The process that prints results touches no device: some devices serve one process at a time, and a
compilation that takes too long can only be ended with its process.
"""

import getpass
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

import jax
from accelerator_report import Entry

from jfedsl.run.processes.compilation import keep_programs

_GRACE = 10  # seconds that a process gets to end by itself


class Settings(NamedTuple):
    """What all cases need to know.

    Attributes:
      quick: whether shapes are tiny.
      repeats: timed calls of each work.
      against_torch: whether PyTorch is there and sees the device.
    """

    quick: bool
    repeats: int
    against_torch: bool = False


Compute = Callable[[Settings], Iterator[Entry]]


class Unfinished(Exception):
    """A case did not come to its end."""

    def __init__(self, status: str, note: str) -> None:
        """Status `stopped` or `failed`, and a line that says why."""
        super().__init__(note)
        self.status, self.note = status, note


class Worker:
    """The process of the cases; after one that did not finish, the next gets a new process."""

    def __init__(self) -> None:
        self._process: Any = None

    def entries(self, case: Compute, settings: Settings, limit: float) -> Iterator[Entry]:
        """What a case yields, as soon as it does.

        Args:
          case: picklable, hence a function of a module.
          settings: for it.
          limit: seconds that it may take, the start of the process included.

        Raises:
          Unfinished: the case took too long or ended with an error.
        """
        end = time.monotonic() + limit
        try:
            if self._process is None:
                self._start()
            self._pipe.send((case, settings))
            while (entry := self._receive(end, limit)) is not None:
                yield entry
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        """Ends the process, which gives the device back."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(_GRACE)
            self._kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe,))
        self._process.start()
        child_pipe.close()  # so that the end of the process is the end of the pipe

    def _receive(self, end: float, limit: float) -> Entry | None:
        """The next entry; None at the end of a case."""
        if not self._pipe.poll(max(0.0, end - time.monotonic())):
            raise Unfinished("stopped", f"it took longer than its {limit:.0f} s")
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise Unfinished("failed", "its process ended early") from None
        if isinstance(answer, str):
            raise Unfinished("failed", answer)
        return answer

    def _kill(self) -> None:
        """Kills the process and all that it has started."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group yet, or no process is left in it
                self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: connection.Connection) -> None:
    """Computes cases until the pipe is closed."""
    os.setsid()  # a group of its own, which can be killed without the process that prints
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            case, settings = pipe.recv()
        except EOFError:
            return
        _keep_programs(settings.quick)
        try:
            for entry in case(settings):
                pipe.send(entry)
            pipe.send(None)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            first = (str(error).splitlines() or [""])[0]
            pipe.send(f"{type(error).__name__}: {first}"[:200])


def _end_with_parent() -> None:
    """Kills the group once the process that prints is gone, whatever it is computing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _keep_programs(keeps: bool) -> None:
    """Compiles what is timed afresh; where nothing is, programs that were compiled come back."""
    jax.config.update("jax_enable_compilation_cache", keeps)
    if keeps:
        keep_programs(f"{tempfile.gettempdir()}/jfedsl-quick-{getpass.getuser()}")
