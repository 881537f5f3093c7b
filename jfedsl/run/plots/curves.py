"""Pictures of a run, round by round."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jfedsl.run.plots.lines import line
from jfedsl.run.plots.style import COLOURS as C
from jfedsl.run.plots.style import COLUMN, PAGE, literal, new_figure, styled
from jfedsl.run.storage.metrics import KEPT, streams_of
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord

_LAYERS = 24  # in a column of the legend of `masks`


@styled
def curves(
    rows: list[Row],
    target: float | None = None,
    title: str = "",
    task: TaskRecord = CLASSIFICATION,
) -> Figure:
    """Metric and loss against round and against megabytes sent.

    Args:
      rows: all rows of metrics.csv.
      target: value of the metric to mark; None for no mark.
      title: text over the panels.
      task: what the run is judged by.

    Returns:
      A figure of two columns' width with 2 x 2 panels: metric above loss, round beside megabytes.
    """
    figure = new_figure(PAGE, 4.2, title)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, label, unit in ((0, "round", 1), (1, "megabytes sent", 1e6)):
        name = ("round", "cumulative_bytes")[column]
        metric, loss = axes[:, column]
        tested, dense, deployed = task.columns
        _line(metric, rows, name, unit, tested, "as trained", color=C["blue"], marker="o")
        others = (
            (dense, "without masks", {"color": C["green"], "ls": ":", "marker": "s"}),
            (deployed, "deployed", {"color": C["vermillion"], "ls": "-.", "marker": "^"}),
        )
        for other, what, style in others:
            if any(row[tested] != row[other] for row in rows):
                _line(metric, rows, name, unit, other, what, **style)
        if target is not None:
            metric.axhline(target, color="0.5", lw=0.8, ls="--", label=f"target {target:g}")
        _line(loss, rows, name, unit, "train_loss", "train", lw=0.8, color="0.5")
        _line(loss, rows, name, unit, task.loss, task.split, marker="o", color=C["vermillion"])
        loss.set_xlabel(label)
        loss.set_xlim(left=0)
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel(task.title)
    axes[1, 0].set_ylabel("loss")
    for axis in axes.flat:
        axis.grid()
    for row in axes:
        _legend_beside(row[1])
    return figure


def _line(
    axis: Axes, rows: list[Row], x: str, unit: float, y: str, label: str, **style: object
) -> None:
    """Draws a line through the rows that have a value; `unit` divides the values of x."""
    points = [(row[x] / unit, row[y]) for row in rows if row[y] is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[arg-type]


def _legend_beside(axis: Axes, columns: int = 1) -> None:
    """Puts the legend to the right of the panel, where it covers nothing."""
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)


@styled
def traffic(rows: list[Row], title: str = "") -> Figure:
    """Megabytes sent so far against round, streams stacked.

    Args:
      rows: all rows of metrics.csv.
      title: text over the picture.

    Returns:
      A figure of one column's width.
    """
    figure = new_figure(COLUMN, 2.7, title)
    axis = figure.subplots()
    streams = streams_of(rows)
    each = [[0] * len(streams), *([row[f"{s}_bytes"] for s in streams] for row in rows)]
    sent = np.cumsum(each, axis=0) / 1e6
    labels = [stream.replace("_", " ") for stream in streams]
    axis.stackplot([0, *(row["round"] for row in rows)], sent.T, labels=labels, alpha=0.85)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("round")
    axis.set_ylabel("megabytes sent so far")
    axis.margins(x=0)
    axis.grid()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def masks(rows: list[Row], title: str = "") -> Figure:
    """The overlap of pruning masks, and the fraction kept of each layer, against round.

    Args:
      rows: all rows of the metrics.csv of a run with pruning.
      title: text over the picture.

    Returns:
      A figure of two columns' width with two panels.
    """
    columns = [name for name in rows[-1] if name.startswith(KEPT)]
    of_legend = -(-len(columns) // _LAYERS) or 1
    figure = new_figure(PAGE, max(2.4, 0.3 + 0.165 * -(-len(columns) // of_legend)), title)
    moving, kept = figure.subplots(1, 2)
    _line(moving, rows, "round", 1, "mask_overlap", "overlap", marker="o")
    moving.set_ylabel("overlap with the masks before")
    for number, column in enumerate(columns):
        style = line(number).style(len(rows))
        _line(kept, rows, "round", 1, column, literal(column.removeprefix(KEPT)), **style)
    kept.set_ylabel("fraction kept")
    kept.set_ylim(0, 1.05)
    for axis in (moving, kept):
        axis.set_xlabel("round")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
    _legend_beside(kept, of_legend)
    return figure
