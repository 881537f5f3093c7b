"""Pictures by class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from jfedsl.run.plots.style import COLUMN, PAGE, literal, new_figure, styled

_MOST_TICKS, _LONGEST_NAME = 20, 24
_DARK = 0.6  # fraction above which a colour takes white text
_MARGIN = 1.2  # inches beside the squares of `confusion`, for labels and colour bar


@styled
def labels(counts: np.ndarray, title: str = "", names: Sequence[str] = ()) -> Figure:
    """How many examples of each class each client has.

    Args:
      counts: examples by client and class, int `[C, classes]`.
      title: text over the picture.
      names: name of each class; empty for their numbers.

    Returns:
      A figure of two columns' width: a map of the counts, and bars of the examples in all.
    """
    clients, classes = counts.shape
    below = 0.065 * max((len(_short(name)) for name in names), default=2)  # inches of names
    figure = new_figure(PAGE, min(7.0, 1.0 + 0.14 * clients) + below, title)
    mix, size = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    image = mix.imshow(counts, aspect="auto", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=[mix, size], label="examples of a class")
    mix.set_xlabel("class")
    mix.set_ylabel("client")
    _ticks(mix.xaxis, classes, names, rotation=90)
    _ticks(mix.yaxis, clients)
    edges = np.arange(clients + 1) - 0.5
    size.stairs(counts.sum(axis=1), edges, orientation="horizontal", fill=True, color="0.5")
    size.set_xlabel("examples in all")
    return figure


def _ticks(axis: Axis, length: int, names: Sequence[str] = (), rotation: float = 0) -> None:
    """Marks rows or columns of a picture, by names or numbers; only some if there are many."""
    places = range(0, length, max(1, -(-length // _MOST_TICKS)))
    if not names:
        axis.set_ticks(places)
        return
    axis.set_ticks(places, [literal(_short(names[place])) for place in places], rotation=rotation)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


@styled
def confusion(counts: np.ndarray, title: str = "", names: Sequence[str] = ()) -> Figure:
    """Which classes are taken for which.

    Args:
      counts: test examples by true class and predicted class, int `[classes, classes]`; a colour
        is the fraction of a true class, and small matrices show the counts.
      title: text over the picture.
      names: name of each class; empty for their numbers.

    Returns:
      A figure as wide as the counts need, from one column to two.
    """
    classes = len(counts)
    width = COLUMN if classes <= 6 else 5.0 if classes <= 12 else PAGE
    figure = new_figure(width, width - 0.9, title)
    axis = figure.subplots()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axis, label="fraction of the true class")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    _ticks(axis.xaxis, classes, names, rotation=90)
    _ticks(axis.yaxis, classes, names)
    if classes <= _MOST_TICKS:
        square, digits = 72 * (width - _MARGIN) / classes, len(str(counts.max()))
        size = min(8.0, square / (0.65 * digits + 0.4))  # points
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if fractions[row, column] > _DARK else "black"
                axis.text(
                    column, row, str(count), color=colour, fontsize=size, ha="center", va="center"
                )
    return figure
