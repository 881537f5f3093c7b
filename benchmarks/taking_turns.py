"""Timing of alternatives in separate processes that run in turn, so that none disturbs another."""

import importlib
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
    """A work in a separate process."""

    def __init__(self, make: Callable[[], Work], imports: Sequence[str] = ()) -> None:
        """Starts the process, without waiting for it.

        Args:
          make: picklable function that prepares the work.
          imports: modules that the process imports meanwhile.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(make, imports, child_pipe), daemon=True
        )
        self._process.start()
        child_pipe.close()  # so that the end of the process is the end of the pipe

    def prepare(self) -> None:
        """Prepares the work; returns once it is prepared.

        Raises:
          RuntimeError: it could not be prepared.
        """
        self._ask("prepare")

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the work at this time."""
        return self._ask("facts")

    def run(self) -> float:
        """Seconds of a run in the process."""
        time.sleep(_PAUSE)
        return self._ask("run")

    def close(self) -> None:
        """Ends the process, which frees its memory."""
        self._process.terminate()
        self._process.join()

    def _ask(self, what: str) -> Any:
        try:
            self._pipe.send(what)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("a process to time ended early; its error is above") from None


def alternate(makers: Sequence[Callable[[], Work]], repeats: int) -> list[dict[str, Any]]:
    """Prepares each work in a separate process and runs them in turn.

    Args:
      makers: picklable functions that each prepare a work.
      repeats: number of timed runs of each work, after one untimed run.

    Returns:
      The facts of each work, with the seconds of its runs as `times`.
    """
    works = []
    for make in makers:  # one by one, so that none disturbs another
        works.append(Remote(make))
        works[-1].prepare()
    results = take_turns(works, repeats)
    for work in works:
        work.close()
    return results


def take_turns(
    works: Sequence[Work], repeats: int, of_others: int | None = None
) -> list[dict[str, Any]]:
    """As `alternate`, of works that are prepared, here or in other processes.

    Args:
      works: to run in turn.
      repeats: timed runs of each.
      of_others: timed runs of all but the first one, in the first turns; None for as many.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        takes_part = len(works) if of_others is None or turn <= of_others else 1
        for work, seconds in zip(works[:takes_part], times[:takes_part], strict=True):
            seconds.append(work.run())
    return [
        {**work.facts, "times": seconds[1:]} for work, seconds in zip(works, times, strict=True)
    ]


def _serve(make: Callable[[], Work], imports: Sequence[str], pipe: Connection) -> None:
    """Prepares a work once asked, then runs it or tells its facts, as often as asked."""
    for name in imports:
        importlib.import_module(name)
    pipe.recv()
    work = make()
    pipe.send(None)
    while True:
        pipe.send(work.run() if pipe.recv() == "run" else work.facts)
