"""Bars along simulated time: a row for the server and one for each client."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jfedsl.run.plots.style import COLOURS as C
from jfedsl.run.plots.style import PAGE, new_figure

# In the order in which they occur in a round; the last but three where the server does not wait.
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
    "receiving": C["green"],
    "computing": C["blue"],
    "sending": C["orange"],
    "waiting": "0.9",
    "sent in vain": C["yellow"],
    "exchange lost": "#faf5b5",  # a light yellow
}

MOST = 16  # participants in a picture
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


def bars(
    serving: Sequence[Segment], rows: Mapping[str, Sequence[Segment]], seconds: float, title: str,
    text: str, labels: Sequence[tuple[int, float, str]] = (),
) -> Figure:  # fmt: skip
    """A figure with a row for the server, and one for each client.

    Args:
      serving: when the server computes.
      rows: what each client does, by its label.
      seconds: where the axis ends.
      title: text over the picture.
      text: about the rows.
      labels: the number of a client's row from 0, a time, and a text that is written before it.

    Returns:
      A figure of two columns' width with a legend below.
    """
    figure = new_figure(PAGE, 1.2 + 0.18 * (1 + len(rows)), title)
    axis = figure.subplots()
    _bar(axis, 0, [Segment("waiting", 0.0, seconds)])
    _bar(axis, 0, serving, 0.8)  # however short
    for y, parts in enumerate(rows.values(), 1):
        _bar(axis, y, parts)
    for row, time, label in labels:
        axis.text(time, row + 1, f"{label} ", ha="right", va="center", fontsize="x-small")
    axis.set_yticks(range(1 + len(rows)), ["server", *rows])
    axis.set_ylim(len(rows) + 0.6, -0.6)
    axis.set_xlim(0, seconds or None)
    axis.set_xlabel("simulated time (s)")
    axis.set_title(text, loc="left")
    axis.grid(axis="x")
    seen = {"waiting"} | {s.kind for parts in (serving, *rows.values()) for s in parts}
    patches = [Patch(color=c, label=kind) for kind, c in COLOURS.items() if kind in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=5)
    return figure


def _bar(axis: Axes, y: int, parts: Sequence[Segment], edge: float = 0.0) -> None:
    for kind, colour in COLOURS.items():
        spans = [(s.start, s.seconds) for s in parts if s.kind == kind]
        if spans:
            axis.broken_barh(spans, (y - _THICKNESS / 2, _THICKNESS), color=colour, linewidth=edge)
