"""A picture of one round in simulated time: when clients and server compute, send and wait."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jfedsl.run.plots.style import COLOURS as C
from jfedsl.run.plots.style import PAGE, new_figure, styled
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.stages import Stage, Stages
from jfedsl.wireless.tail import TailStages

# In the order in which they occur in a round.
COLOURS = {
    "model down": C["purple"],
    "forward": C["blue"],
    "activations up": C["orange"],
    "server": C["black"],
    # Between the passes of the server, where clients hold the last layers too.
    "activations down": "#f2c46d",
    "tail": "#8c6bb1",
    "gradients up": "#8fd3bd",
    "gradients down": C["green"],
    "backward": C["sky blue"],
    "model up": C["vermillion"],
    "waiting": "0.9",
    "sent in vain": C["yellow"],
    "exchange lost": "#faf5b5",  # a light yellow
}

_MOST, _LOST = 16, 4  # participants in a picture, and at most how many that lost an exchange
_ROUNDING = 1e-6  # of a stage's seconds: less is no waiting but rounding
_THICKNESS = 0.8  # of a bar, as a share of its row


class Segment(NamedTuple):
    """A part of a bar.

    Attributes:
      kind: one of `COLOURS`.
      start: when it begins, in seconds.
      seconds: how long it takes.
    """

    kind: str
    start: float
    seconds: float


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
    if np.ndim(cost.stages[0].seconds) == 0:
        yield from _parts(cost.stages, participant, cost.tail)
        return
    turns = [jax.tree.map(lambda x, n=n: x[n], cost.stages) for n in range(len(cost.waiting))]
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


def _drawn(cost: Cost) -> tuple[list[int], str]:
    """Indices among the `[K]` of the participants to draw, and a text about the choice.

    Few participants are all drawn. Of many, those that wait least are drawn, because the others
    wait for them, and some of those that lost an exchange.
    """
    order = np.argsort(cost.waiting, kind="stable").tolist()
    if len(order) <= _MOST:
        return order, ""
    done = cost.stages[1].done  # `[S, K]`, or in turns `[K, S, 1]`
    every = done.all(axis=(1, 2)) if done.ndim == 3 else done.all(axis=0)
    out = [n for n in order if not every[n]]
    some = out[:_LOST]
    least = [n for n in order if n not in some][: _MOST - len(some)]
    text = f"the {len(least)} of {len(order)} that wait least"
    return least + some, f"{text}, {len(some)} of {len(out)} that lost exchanges" if out else text


@styled
def timeline(cost: Cost, ids: np.ndarray, title: str = "") -> Figure:
    """A round along simulated time, a bar for each participant.

    Args:
      cost: of one round, NumPy arrays.
      ids: numbers of the participants, int `[K]`; of many, only some are drawn.
      title: text over the picture.

    Returns:
      A figure of two columns' width with a legend below.
    """
    drawn, text = _drawn(cost)
    rows = {f"client {ids[n]}": segments(cost, n) for n in drawn}
    serving = [s for s in next(iter(rows.values())) if s.kind == "server"]
    whole = Segment("waiting", 0.0, float(cost.seconds))
    figure = new_figure(PAGE, 1.2 + 0.18 * (1 + len(rows)), title)
    axis = figure.subplots()
    _bar(axis, 0, [whole])
    _bar(axis, 0, serving, 0.8)  # however short
    for y, parts in enumerate(rows.values(), 1):
        _bar(axis, y, parts)
    axis.set_yticks(range(1 + len(rows)), ["server", *rows])
    axis.set_ylim(len(rows) + 0.6, -0.6)
    axis.set_xlim(0, whole.seconds or None)
    axis.set_xlabel("simulated time (s)")
    axis.set_title(text, loc="left")
    axis.grid(axis="x")
    seen = {"waiting"} | {s.kind for parts in rows.values() for s in parts}
    patches = [Patch(color=c, label=kind) for kind, c in COLOURS.items() if kind in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=5)
    return figure


def _bar(axis: Axes, y: int, parts: list[Segment], edge: float = 0.0) -> None:
    for kind, colour in COLOURS.items():
        spans = [(s.start, s.seconds) for s in parts if s.kind == kind]
        if spans:
            axis.broken_barh(spans, (y - _THICKNESS / 2, _THICKNESS), color=colour, linewidth=edge)
