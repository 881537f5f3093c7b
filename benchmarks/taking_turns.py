"""Work prepared in processes of its own that take turns, so that neither disturbs the other."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

_PAUSE = 0.3  # seconds; threads of a framework spin for a while after its turn


class Work(Protocol):
    """Something to time, compiled and warm, with facts to report about it."""

    facts: dict[str, Any]

    def run(self) -> float:
        """Does the work once; returns its seconds."""
        ...


def alternate(makers: Sequence[Callable[[], Work]], repeats: int) -> list[dict[str, Any]]:
    """Prepares each work in a process of its own and runs them in turn.

    Args:
      makers: picklable functions that prepare one.
      repeats: timed runs of each, after one that is not timed.

    Returns:
      For each work its facts, with the seconds of its runs as `times`.
    """
    context = multiprocessing.get_context("spawn")
    pipes = []
    for make in makers:
        pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(make, theirs), daemon=True).start()
        pipes.append(pipe)
        pipe.recv()  # prepared; the next one starts on a quiet machine
    rounds = [[_turn(pipe) for pipe in pipes] for _ in range(repeats + 1)]
    results = []
    for pipe, times in zip(pipes, zip(*rounds[1:], strict=True), strict=True):
        pipe.send(False)
        results.append({**pipe.recv(), "times": list(times)})
    return results


def _turn(pipe: Any) -> float:
    time.sleep(_PAUSE)
    pipe.send(True)
    return pipe.recv()


def _serve(make: Callable[[], Work], pipe: Connection) -> None:
    work = make()
    pipe.send(None)
    while pipe.recv():
        pipe.send(work.run())
    pipe.send(work.facts)
