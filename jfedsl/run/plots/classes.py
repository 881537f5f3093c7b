"""Pictures by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from jfedsl.run.plots.figures import literal, save

_MOST_TICKS, _LONGEST_NAME = 20, 24
_DARK = 0.6  # fraction above which a colour takes white text


def labels(counts: np.ndarray, title: str, path: Path, names: Sequence[str] = ()) -> None:
    """Draws how many examples of each class each client has, as a PNG.

    Args:
      counts: examples by client and class, int `[C, classes]`.
      title: text over the picture.
      path: of the picture.
      names: name of each class; empty for their numbers.
    """
    clients, classes = counts.shape
    figure = Figure(figsize=(9, min(12.0, 2.0 + 0.25 * clients)), layout="constrained")
    mix, size = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    image = mix.imshow(counts, aspect="auto", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=[mix, size], label="examples of a class")
    mix.set_xlabel("class")
    mix.set_ylabel("client")
    _ticks(mix.xaxis, classes, names, rotation=90)
    _ticks(mix.yaxis, clients)
    edges = np.arange(clients + 1) - 0.5
    size.stairs(counts.sum(axis=1), edges, orientation="horizontal", fill=True, color="tab:gray")
    size.set_xlabel("examples in all")
    save(figure, title, path)


def _ticks(axis: Axis, length: int, names: Sequence[str] = (), rotation: float = 0) -> None:
    """Marks rows or columns of a picture, by names or numbers; only some if there are many."""
    places = range(0, length, max(1, -(-length // _MOST_TICKS)))
    if not names:
        axis.set_ticks(places)
        return
    texts = [literal(_short(names[place])) for place in places]
    axis.set_ticks(places, texts, rotation=rotation, fontsize="small")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def confusion(counts: np.ndarray, title: str, path: Path, names: Sequence[str] = ()) -> None:
    """Draws which classes are taken for which, as a PNG.

    Args:
      counts: test examples by true class and predicted class, int `[classes, classes]`; a colour
        is the fraction of a true class, and small matrices show the counts.
      title: text over the picture.
      path: of the picture.
      names: name of each class; empty for their numbers.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axis, label="fraction of the true class")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    _ticks(axis.xaxis, len(counts), names, rotation=90)
    _ticks(axis.yaxis, len(counts), names)
    if len(counts) <= _MOST_TICKS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if fractions[row, column] > _DARK else "black"
                axis.text(column, row, str(count), color=colour, ha="center", va="center")
    save(figure, title, path)
