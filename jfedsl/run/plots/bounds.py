"""A picture of the convergence bound, term by term, beside what was measured."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jfedsl.run.plots.style import COLOURS, PAGE, new_figure, styled

_FILLS = [colour for name, colour in COLOURS.items() if name != "black"]  # black is the measured
_BESIDE = ("measured", "predicted")  # what the legend names after the terms


class Bar(NamedTuple):
    """A bound beside what was measured.

    Attributes:
      terms: of the bound, which add up to it.
      measured: the measured value for each seed.
      predicted: the bound as it was predicted before the runs; None without a prediction.
    """

    terms: dict[str, float]
    measured: list[float]
    predicted: float | None = None


@styled
def bounds(panels: Mapping[str, Mapping[str, Bar | None]], title: str = "") -> Figure:
    """Bounds, terms stacked, beside measurements; a diamond is the predicted bound.

    Args:
      panels: for each varied flag, a bar for each of its values; None if the run diverged.
      title: text over the picture.

    Returns:
      A figure of two columns' width, with three panels in a row and a legend below.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE, 2.1 * rows + 0.5, title)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (what, bars) in zip(axes.flat, panels.items(), strict=False):
        _bars(axis, list(bars.values()))
        axis.set_xticks(range(len(bars)), list(bars))
        axis.set_xlabel(what)
        axis.grid(axis="y")
        axis.use_sticky_edges = False  # of the segments, which would leave no margin above
        axis.autoscale_view()
        axis.set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("squared gradient norm")
    entries: dict[str, Artist] = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        entries = dict(zip(names, handles, strict=True)) | entries
    order = [name for bars in panels.values() for bar in bars.values() if bar for name in bar.terms]
    named = [name for name in dict.fromkeys([*order, *_BESIDE]) if name in entries]
    figure.legend([entries[name] for name in named], named, loc="outside lower center", ncols=5)
    return figure


def _bars(axis: Axes, bars: Sequence[Bar | None]) -> None:
    for x, bar in enumerate(bars):
        if bar is None:
            axis.text(x, 0, "diverged", rotation=90, ha="center", va="bottom")
            continue
        bottom = 0.0
        for number, (name, value) in enumerate(bar.terms.items()):
            if value > 0:
                cycle, colour = divmod(number, len(_FILLS))
                axis.bar(
                    x - 0.2, value, 0.4, bottom, label=name, color=_FILLS[colour], lw=0,
                    hatch="/////" * cycle, edgecolor="white",
                )  # fmt: skip
            bottom += value
        low, high, mean = min(bar.measured), max(bar.measured), float(np.mean(bar.measured))
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]  # not below 0: a mean is rounded
        axis.bar(x + 0.2, mean, 0.3, color="black", yerr=error, ecolor="gray", label="measured")
        if bar.predicted is not None:
            axis.plot(
                x - 0.2, bar.predicted, "D", ms=3.5, mfc="white", mec="black", mew=0.8,
                label="predicted",
            )  # fmt: skip
