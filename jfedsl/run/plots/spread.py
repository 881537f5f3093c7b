"""A picture of several settings: the metric against costs, over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jfedsl.run.plots.lines import line
from jfedsl.run.plots.style import CHARACTERS, COLUMN, PAGE, new_figure, styled, wrapped

Curve = Sequence[tuple[float, ...]]

_MUCH = 4  # if one setting takes this many times as much as another, the axis is logarithmic
_WIDE, _LINES = 42, 4  # of an entry of a legend: characters in a line, so that two fit, and lines
_HANDLE = 0.5  # inches: the line beside an entry of a legend, and the space around both
_LINE = 0.145  # inches: height of a line of text


@styled
def spread(
    curves: Mapping[str, Sequence[Curve]],
    labels: Sequence[str],
    title: str = "",
    metric: str = "test accuracy",
) -> Figure:
    """The deployed metric of settings against several costs, mean and range over seeds.

    Args:
      curves: for each setting, and each seed, points at the same rounds: the costs, then the
        metric. Empty curves are left out. A setting is not drawn against a cost that is 0 in all
        its points. The n-th setting has the n-th line of `lines.line`.
      labels: of the costs.
      title: text over the picture.
      metric: its name in words, with its split.

    Returns:
      A figure with a panel for each cost, two in a row, and a legend below.
    """
    columns = min(2, len(labels))
    rows, width = -(-len(labels) // columns), (COLUMN, PAGE)[columns - 1]
    entries = _entries(list(curves))
    of_legend = _legend_columns(entries, width)
    figure = new_figure(width, 2.4 * rows + _legend_height(entries, of_legend), title)
    every = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    axes = every[: len(labels)]
    known = {name: [run for run in runs if run] for name, runs in curves.items()}
    handles: dict[str, Artist] = {}
    for number, (entry, runs) in enumerate(zip(entries, known.values(), strict=True)):
        if runs:
            points = np.array(runs)  # [seeds, evaluations, costs and metric]
            style = line(number).style(points.shape[1])
            for column, axis in enumerate(axes):
                _band(axis, points[:, :, column], points[:, :, -1], entry, style, handles)
    for column, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        totals = [max(p[column] for run in runs for p in run) for runs in known.values() if runs]
        _scale(axis, label, [total for total in totals if total > 0])
    for axis in every[len(labels) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel(f"{metric}, deployed")
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=of_legend
    )
    return figure


def _band(
    axis: Axes, costs: np.ndarray, tested: np.ndarray, entry: str, style: dict[str, Any],
    handles: dict[str, Artist],
) -> None:  # fmt: skip
    """Draws the mean of a setting with the band from least to greatest; costs, metric `[S, E]`."""
    x = costs.mean(axis=0)
    if not x.any():
        return
    (drawn,) = axis.plot(x, tested.mean(axis=0), label=entry, **style)
    handles.setdefault(entry, drawn)
    low, high = tested.min(axis=0), tested.max(axis=0)
    axis.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)


def _scale(axis: Axes, label: str, totals: Sequence[float]) -> None:
    """Labels the axis of a cost, and makes it logarithmic where settings differ much."""
    axis.set_xlabel(label)
    axis.grid()
    if totals and max(totals) > _MUCH * min(totals):
        _use_logarithm(axis)
    elif label == "round":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _use_logarithm(axis: Axes) -> None:
    """Makes the x-axis logarithmic, with labels that do not overlap."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    steps = (1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)
    axis.xaxis.set_major_locator(LogLocator(subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _entries(names: Sequence[str]) -> list[str]:
    """Names as entries of a legend, shortened to a few lines; numbered if that makes them equal."""
    short = [wrapped(name, _WIDE, _LINES) or "-" for name in names]  # no layout for an empty one
    return [
        text if short.count(text) == 1 else f"{number}: {text}"
        for number, text in enumerate(short, 1)
    ]


def _legend_columns(entries: Sequence[str], width: float) -> int:
    """Columns of a legend below a picture so wide, in inches, with equally long columns."""
    longest = max((len(part) for entry in entries for part in entry.split("\n")), default=1)
    most = max(1, int(width / (longest / CHARACTERS + _HANDLE)))
    rows = -(-len(entries) // most) or 1
    return -(-len(entries) // rows) or 1


def _legend_height(entries: Sequence[str], columns: int) -> float:
    """Height in inches of a legend that is filled column by column."""
    rows = -(-len(entries) // columns)
    parts = [entries[start : start + rows] for start in range(0, len(entries), rows or 1)]
    lines = max((sum(entry.count("\n") + 1 for entry in part) for part in parts), default=0)
    return _LINE * (lines + 1) + 0.06 * rows
