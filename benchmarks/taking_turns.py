"""Timing of alternatives in separate processes that run in turn, so that none disturbs another."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

_PAUSE = 0.3  # seconds; threads of a framework keep spinning for a while after a call


class Work(Protocol):
    """Something to time, compiled and warmed up, with facts to report."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it besides times."""
        ...

    def run(self) -> float:
        """Runs once and returns the seconds that it took."""
        ...


class Remote:
    """A work in a separate process, which is prepared once this is made."""

    def __init__(self, make: Callable[[], Work]) -> None:
        """Starts the process.

        Args:
          make: picklable function that prepares the work.

        Raises:
          RuntimeError: the work could not be prepared.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, child_pipe), daemon=True)
        self._process.start()
        child_pipe.close()  # so that the end of the process is the end of the pipe
        self._answer()

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the work at this time."""
        self._pipe.send("facts")
        return self._answer()

    def run(self) -> float:
        """Seconds of a run in the process."""
        time.sleep(_PAUSE)
        self._pipe.send("run")
        return self._answer()

    def close(self) -> None:
        """Ends the process, which frees its memory."""
        self._process.terminate()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("a process to time ended early; its error is above") from None


def alternate(makers: Sequence[Callable[[], Work]], repeats: int) -> list[dict[str, Any]]:
    """Prepares each work in a separate process and runs them in turn.

    Args:
      makers: picklable functions that each prepare a work.
      repeats: number of timed runs of each work, after one untimed run.

    Returns:
      The facts of each work, with the seconds of its runs as `times`.
    """
    works = [Remote(make) for make in makers]  # one by one, so that none disturbs another
    results = take_turns(works, repeats)
    for work in works:
        work.close()
    return results


def take_turns(works: Sequence[Work], repeats: int) -> list[dict[str, Any]]:
    """As `alternate`, of works that are prepared, here or in other processes."""
    rounds = [[work.run() for work in works] for _ in range(repeats + 1)]
    times = zip(*rounds[1:], strict=True)
    return [{**work.facts, "times": [*each]} for work, each in zip(works, times, strict=True)]


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    """Prepares a work, then runs it or tells its facts, as often as asked."""
    work = make()
    pipe.send(None)
    while True:
        pipe.send(work.run() if pipe.recv() == "run" else work.facts)
