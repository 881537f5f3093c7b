"""Timing of alternatives in separate processes that run in turn, so that none disturbs another."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

_PAUSE = 0.3  # seconds; threads of a framework keep spinning for a while after a call


class Work(Protocol):
    """Something to time, compiled and warmed up, with facts to report."""

    facts: dict[str, Any]

    def run(self) -> float:
        """Runs once and returns the seconds that it took."""
        ...


def alternate(makers: Sequence[Callable[[], Work]], repeats: int) -> list[dict[str, Any]]:
    """Prepares each work in a separate process and runs them in turn.

    Args:
      makers: picklable functions that each prepare a work.
      repeats: number of timed runs of each work, after one untimed run.

    Returns:
      The facts of each work, with the seconds of its runs as `times`.
    """
    context = multiprocessing.get_context("spawn")
    pipes = []
    for make in makers:
        pipe, child_pipe = context.Pipe()
        context.Process(target=_serve, args=(make, child_pipe), daemon=True).start()
        pipes.append(pipe)
        pipe.recv()  # waits until it is prepared, so that preparing the next is not disturbed
    rounds = [[_turn(pipe) for pipe in pipes] for _ in range(repeats + 1)]
    results = []
    for pipe, times in zip(pipes, zip(*rounds[1:], strict=True), strict=True):
        pipe.send(False)
        results.append({**pipe.recv(), "times": list(times)})
    return results


def _turn(pipe: Any) -> float:
    """Seconds of a run in the process at the other end of the pipe."""
    time.sleep(_PAUSE)
    pipe.send(True)
    return pipe.recv()


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    """Prepares a work, runs it as often as asked, and returns its facts."""
    work = make()
    pipe.send(None)
    while pipe.recv():
        pipe.send(work.run())
    pipe.send(work.facts)
