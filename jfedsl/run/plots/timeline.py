"""A picture of one round in simulated time: when clients and server compute, send and wait."""

from collections.abc import Iterator

import jax
import numpy as np
from matplotlib.figure import Figure

from jfedsl.run.plots import arrivals
from jfedsl.run.plots.bars import MOST, Segment, bars
from jfedsl.run.plots.style import styled
from jfedsl.wireless.arrivals import ServerStep
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.stages import Stage, Stages
from jfedsl.wireless.tail import TailStages

_LOST = 4  # in a picture at most so many participants that lost an exchange
_ROUNDING = 1e-6  # of a stage's seconds: less is no waiting but rounding


def segments(cost: Cost, participant: int) -> list[Segment]:
    """A participant's round as segments in order; the server's computing is among them.

    Messages sent or received in vain have a kind, and so has the rest of an exchange that is lost.

    Args:
      cost: of one round, NumPy arrays.
      participant: index among the `[K]`.
    """
    parts, now = [], 0.0
    for kind, seconds in _in_turn(cost, participant):
        if seconds > 0:
            parts.append(Segment(kind, now, seconds))
            now += seconds
    return parts


def _in_turn(cost: Cost, participant: int) -> Iterator[tuple[str, float]]:
    """As `_parts`; where participants take turns, the turns of others are waiting."""
    stages = cost.stages
    assert not isinstance(stages, ServerStep)
    if np.ndim(stages[0].seconds) == 0:
        yield from _parts(stages, participant, cost.tail)
        return
    turns = [jax.tree.map(lambda x, n=n: x[n], stages) for n in range(len(cost.waiting))]
    for n, turn in enumerate(turns):
        for kind, seconds in _parts(turn, 0):
            # The server's computing is drawn in every row.
            mine = n == participant or kind == "server"
            yield kind if mine else "waiting", seconds


def _parts(
    stages: Stages, participant: int, tail: TailStages | None = None
) -> Iterator[tuple[str, float]]:
    """Kinds and seconds of the parts of a round in order, those of 0 s included."""
    first, up, server, down, last = stages

    def spent(stage: Stage, *step: int) -> tuple[bool, float, float, float]:
        """Whether the participant did its stage; seconds of computing, of sending, of waiting."""
        by_participant = np.ndim(stage.seconds) == np.ndim(stage.computing)  # else all wait alike
        whole = float(stage.seconds[(*step, participant) if by_participant else step])
        computes = float(stage.computing[(*step, participant)])
        sends = float(stage.sending[(*step, participant)])
        waits = whole - computes - sends - received(stage, *step)
        done = bool(stage.done[(*step, participant)])
        return done, computes, sends, waits if waits > _ROUNDING * whole else 0.0

    def received(stage: Stage, *step: int) -> float:
        return 0.0 if stage.receiving is None else float(stage.receiving[(*step, participant)])

    def alone(kind: str, stage: Stage) -> Iterator[tuple[str, float]]:
        done, _, sends, waits = spent(stage)
        yield kind if done else "sent in vain", sends
        yield "waiting", waits

    def forth(step: int) -> Iterator[tuple[str, float]]:
        done, computes, sends, waits = spent(up, step)
        yield "forward", computes
        yield "activations up" if done else "sent in vain", sends
        yield "waiting" if done else "exchange lost", waits

    def back(step: int) -> Iterator[tuple[str, float]]:
        _, computes, receives, waits = spent(down, step)
        yield "gradients down", receives
        yield "backward", computes
        yield "waiting" if spent(up, step)[0] else "exchange lost", waits

    def between(step: int, tail: TailStages) -> Iterator[tuple[str, float]]:
        _, computes, sends, waits = spent(tail.clients, step)
        yield "activations down", received(tail.clients, step)
        yield "tail", computes
        yield "gradients up", sends
        yield "waiting" if spent(up, step)[0] else "exchange lost", waits
        yield "server", float(tail.server[step])

    def served(n: int) -> Iterator[tuple[str, float]]:
        """The turn of the n-th participant to be served.

        Its first stage up and its last stage down are left out: all participants share them.
        """
        mine = n == participant
        for step in range(len(server)):
            if step > 0:
                yield from forth(step) if mine else [("waiting", float(up.seconds[step, n]))]
            yield "server", float(server[step, n])
            if step < len(server) - 1:
                yield from back(step) if mine else [("waiting", float(down.seconds[step, n]))]

    yield from alone("model down", first)
    if np.ndim(server) == 1:
        for i in range(len(server)):
            yield from forth(i)
            yield "server", float(server[i])
            if tail is not None:
                yield from between(i, tail)
            yield from back(i)
    else:
        yield from forth(0)
        for n in range(server.shape[1]):
            yield from served(n)
        yield from back(len(server) - 1)
    yield from alone("model up", last)


def _drawn(cost: Cost, stages: Stages) -> tuple[list[int], str]:
    """Indices among the `[K]` of the participants to draw, and a text about the choice.

    Few participants are all drawn. Of many, those that wait least are drawn, because the others
    wait for them, and some of those that lost an exchange.
    """
    order = np.argsort(cost.waiting, kind="stable").tolist()
    if len(order) <= MOST:
        return order, ""
    done = stages[1].done  # `[S, K]`, or in turns `[K, S, 1]`
    every = done.all(axis=(1, 2)) if done.ndim == 3 else done.all(axis=0)
    out = [n for n in order if not every[n]]
    some = out[:_LOST]
    least = [n for n in order if n not in some][: MOST - len(some)]
    text = f"the {len(least)} of {len(order)} that wait least"
    return least + some, f"{text}, {len(some)} of {len(out)} that lost exchanges" if out else text


@styled
def timeline(cost: Cost, ids: np.ndarray, title: str = "") -> Figure:
    """A round along simulated time, a bar for each participant.

    Where the server does not wait for all, numbers say how many of its steps a client had missed
    when the server took its message, where there were any.

    Args:
      cost: of one round, NumPy arrays.
      ids: numbers of the participants, int `[K]`; of many, only some are drawn.
      title: text over the picture.

    Returns:
      A figure of two columns' width with a legend below.
    """
    if isinstance(cost.stages, ServerStep):
        return arrivals.figure_of(cost.stages, ids, title)
    drawn, text = _drawn(cost, cost.stages)
    rows = {f"client {ids[n]}": segments(cost, n) for n in drawn}
    serving = [s for s in next(iter(rows.values())) if s.kind == "server"]
    return bars(serving, rows, float(cost.seconds), title, text)
