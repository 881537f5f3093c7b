"""A picture of the steps of a server that does not wait for all: who computes, sends, waits."""

from collections.abc import Iterator

import jax
import numpy as np
from matplotlib.figure import Figure

from jfedsl.run.plots.bars import MOST, Segment, bars
from jfedsl.wireless.arrivals import ServerStep

_PARTS = ("receiving", "computing", "sending")


def figure_of(steps: ServerStep, ids: np.ndarray, title: str) -> Figure:
    """The steps of a round along simulated time, a bar for each client.

    Args:
      steps: of the round, `[S, ...]`, NumPy arrays.
      ids: numbers of the clients, int `[K]`; of many, those that the server took most and least
        often are drawn, and some between.
      title: text over the picture.
    """
    there = steps.taken.any(axis=1)  # the step that ends a period is in some rounds only
    steps = jax.tree.map(lambda x: x[there], steps)
    ends = np.cumsum(steps.waited + steps.serving, dtype=np.float64)
    order = np.argsort(-steps.taken.sum(axis=0), kind="stable")
    drawn = order[
        np.unique(np.linspace(0, len(order) - 1, min(MOST, len(order))).round().astype(int))
    ]
    text = "" if len(drawn) == len(order) else f"{len(drawn)} of {len(order)} clients"
    rows = {f"client {ids[n]}": list(segments(steps, n, ends)) for n in drawn}
    times = zip(ends, steps.serving, strict=True)
    serving = [Segment("server", float(end - spent), float(spent)) for end, spent in times]
    labels = [
        (row, float(ends[i] - steps.serving[i]), str(steps.underway.missed[i, n]))
        for row, n in enumerate(drawn)
        for i in np.flatnonzero(steps.taken[:, n] & (steps.underway.missed[:, n] > 0))
    ]
    return bars(serving, rows, float(ends[-1]), title, text, labels)


def segments(steps: ServerStep, client: int, ends: np.ndarray) -> Iterator[Segment]:
    """What a client does in a round: its trips, and its waiting until the server answers.

    Args:
      steps: of the round, `[S, ...]`, NumPy arrays.
      client: position among the `[K]`.
      ends: when each step ends, float64 `[S]`, s from the start of the round.
    """
    taken = steps.taken[:, client]
    # The last trip is under way when the round ends.
    for i in sorted({*np.flatnonzero(taken), len(ends) - 1}):
        begin = ends[i - 1] if i else 0.0
        now = float(begin + steps.underway.started[i, client])
        for kind, part in zip(_PARTS, steps.underway.trip, strict=True):
            yield from _inside(kind, now, now + float(part[i, client]), ends[-1])
            now += float(part[i, client])
        yield from _inside("waiting", now, float(ends[i]), ends[-1])


def _inside(kind: str, begin: float, end: float, last: float) -> Iterator[Segment]:
    """The part of a segment that lies in the round, if any."""
    begin, end = max(begin, 0.0), min(end, last)
    if end > begin:
        yield Segment(kind, begin, end - begin)
