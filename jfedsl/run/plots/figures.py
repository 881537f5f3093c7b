"""Pictures of a run."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jfedsl.errors import one_line
from jfedsl.run.storage.metrics import KEPT, streams_of
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord


def curves(
    rows: list[Row], target: float, title: str, path: Path, task: TaskRecord = CLASSIFICATION
) -> None:
    """Draws metric and loss against round and against megabytes sent, as a PNG.

    Args:
      rows: all rows of metrics.csv.
      target: value of the metric to mark.
      title: text over the panels.
      path: of the picture.
      task: what the run is judged by.
    """
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, label, unit in ((0, "round", 1), (1, "megabytes sent, all streams", 1e6)):
        name = ("round", "cumulative_bytes")[column]
        metric, loss = axes[:, column]
        tested, dense, deployed = task.columns
        _line(metric, rows, name, unit, tested, "as trained", marker=".")
        for other, what, style in ((dense, "without masks", ":"), (deployed, "deployed", "-.")):
            if any(row[tested] != row[other] for row in rows):
                _line(metric, rows, name, unit, other, what, ls=style, marker=".")
        metric.axhline(target, color="gray", lw=0.8, ls="--", label=f"target {target:g}")
        _line(loss, rows, name, unit, "train_loss", "train", lw=0.8, color="tab:gray")
        _line(loss, rows, name, unit, "test_loss", "test", marker=".", color="tab:red")
        loss.set_xlabel(label)
        loss.set_xlim(left=0)
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel(f"test {task.label}")
    axes[1, 0].set_ylabel("loss")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, 0].legend(loc="best")
    axes[1, 0].legend(loc="best")
    save(figure, title, path)


def _line(
    axis: Axes, rows: list[Row], x: str, unit: float, y: str, label: str, **style: object
) -> None:
    """Draws a line through the rows that have a value; `unit` divides the values of x."""
    points = [(row[x] / unit, row[y]) for row in rows if row[y] is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[arg-type]


def traffic(rows: list[Row], title: str, path: Path) -> None:
    """Draws cumulative megabytes against round, streams stacked, as a PNG."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    streams = streams_of(rows)
    each = [[0] * len(streams), *([row[f"{s}_bytes"] for s in streams] for row in rows)]
    sent = np.cumsum(each, axis=0) / 1e6
    labels = [stream.replace("_", " ") for stream in streams]
    axis.stackplot([0, *(row["round"] for row in rows)], sent.T, labels=labels, alpha=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("round")
    axis.set_ylabel("megabytes sent so far")
    axis.margins(x=0)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    save(figure, title, path)


def masks(rows: list[Row], title: str, path: Path) -> None:
    """Draws the overlap of pruning masks and the fraction kept of each layer, as a PNG."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    moving, kept = figure.subplots(2, 1, sharex=True)
    _line(moving, rows, "round", 1, "mask_overlap", "overlap", marker=".")
    moving.set_ylabel("overlap with the masks before")
    for column in (name for name in rows[-1] if name.startswith(KEPT)):
        _line(kept, rows, "round", 1, column, literal(column.removeprefix(KEPT)))
    kept.set_ylabel("fraction kept")
    kept.set_ylim(0, 1.05)
    kept.set_xlabel("round")
    kept.set_xlim(left=0)
    kept.xaxis.set_major_locator(MaxNLocator(integer=True))
    kept.legend(loc="best", ncols=3, fontsize="small")
    for axis in (moving, kept):
        axis.grid(alpha=0.3)
    save(figure, title, path)


_MUCH = 4  # if one setting takes this many times as much as another, the axis is logarithmic
Curve = Sequence[tuple[float, ...]]


def spread(
    curves: Mapping[str, Sequence[Curve]], labels: Sequence[str], title: str, path: Path,
    metric: str = "accuracy",
) -> None:  # fmt: skip
    """Draws the deployed metric against several costs, mean and range over seeds.

    Args:
      curves: for each setting, and each seed, points at the same rounds: the costs, then the
        metric. Empty curves are left out. A setting is not drawn against a cost that is 0 in all
        its points.
      labels: of the costs.
      title: text over the picture.
      path: of the picture.
      metric: its name in words.
    """
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    entries = _entries(list(curves))
    beside = _fit_beside(entries, rows)
    extra = (3.1, 0.6) if beside else (0.6, 0.6 + _height(entries, columns))
    size = (4.7 * columns + extra[0], 4.2 * rows + extra[1])
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    curves = {name: [run for run in runs if run] for name, runs in curves.items()}
    handles: dict[str, Artist] = {}
    for number, (entry, runs) in enumerate(zip(entries, curves.values(), strict=True)):
        if not runs:
            continue
        points = np.array(runs)  # [seeds, evaluations, costs and metric]
        style = {"color": f"C{number % 10}", "ls": ("-", "--", ":")[number // 10 % 3]}
        tested = points[:, :, -1]
        for column, axis in enumerate(axes):
            x = points[:, :, column].mean(axis=0)
            if not x.any():
                continue
            (line,) = axis.plot(x, tested.mean(axis=0), marker=".", label=entry, **style)
            handles.setdefault(entry, line)
            low, high = tested.min(axis=0), tested.max(axis=0)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)
    for column, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        each = [
            max(point[column] for run in runs for point in run) for runs in curves.values() if runs
        ]
        totals = [total for total in each if total > 0]
        if totals and max(totals) > _MUCH * min(totals):
            _use_logarithm(axis)
        elif label == "round":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[::columns]:
        axis.set_ylabel(f"test {metric}, deployed")
    lines, names = list(handles.values()), list(handles)
    if beside:
        figure.legend(lines, names, loc="outside right center")
    else:
        figure.legend(lines, names, loc="outside lower left", fontsize=_SMALL, ncols=columns)
    save(figure, title, path)


_WIDE, _LINES = 60, 3  # of an entry of a legend: characters in a line, and lines
_SMALL = 8  # points
_BESIDE, _ROWS = 30, 20  # that fit beside the panels: characters, and lines for each row of panels


def literal(text: str) -> str:
    """A text that Matplotlib draws as it is: a dollar sign does not begin a formula."""
    return text.replace("$", r"\$")


def _entries(names: Sequence[str]) -> list[str]:
    """Names as entries of a legend, shortened to a few lines; numbered if that makes them equal."""
    short = [_wrapped(name, _WIDE) or "-" for name in names]  # no layout for an empty one
    return [
        text if short.count(text) == 1 else f"{number}: {text}"
        for number, text in enumerate(short, 1)
    ]


def _wrapped(text: str, wide: int) -> str:
    """A text in a few lines of at most `wide` characters, ready to be drawn."""
    return literal(textwrap.fill(one_line(text), wide, max_lines=_LINES, placeholder=" ..."))


def _fit_beside(entries: Sequence[str], rows: int) -> bool:
    """Whether a legend fits to the right of `rows` rows of panels."""
    lines = [line for entry in entries for line in entry.split("\n")]
    return max(map(len, lines), default=0) <= _BESIDE and len(lines) <= _ROWS * rows


def _height(entries: Sequence[str], columns: int) -> float:
    """Height in inches of a legend in small print, with half a line between its entries."""
    parts = np.array_split(np.array([entry.count("\n") + 1 for entry in entries]), columns)
    lines = max(1.2 * part.sum() + 0.5 * len(part) for part in parts)
    return float(lines + 2) * _SMALL / 72


def _use_logarithm(axis: Axes) -> None:
    """Makes the x-axis logarithmic, with labels that do not overlap."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    steps = (1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)
    axis.xaxis.set_major_locator(LogLocator(subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


class Bar(NamedTuple):
    """A bound by its terms, which add up to it, and the measured value for each seed."""

    terms: dict[str, float]
    measured: list[float]


def bounds(panels: Mapping[str, Mapping[str, Bar | None]], title: str, path: Path) -> None:
    """Draws bounds, terms stacked, beside measurements, as a PNG.

    Args:
      panels: for each varied flag, a bar for each of its values; None if the run diverged.
      title: text over the picture.
      path: of the picture.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns + 2.2, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (what, bars) in zip(axes.flat, panels.items(), strict=False):
        _bars(axis, list(bars.values()))
        axis.set_xticks(range(len(bars)), list(bars))
        axis.set_xlabel(what)
        axis.grid(alpha=0.3, axis="y")
    for axis in axes[:, 0]:
        axis.set_ylabel("squared gradient norm")
    entries: dict[str, Artist] = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        entries = dict(zip(names, handles, strict=True)) | entries
    order = [name for bars in panels.values() for bar in bars.values() if bar for name in bar.terms]
    named = [name for name in dict.fromkeys([*order, "measured"]) if name in entries]
    figure.legend([entries[name] for name in named], named, loc="outside right center")
    save(figure, title, path)


def _bars(axis: Axes, bars: Sequence[Bar | None]) -> None:
    for x, bar in enumerate(bars):
        if bar is None:
            axis.text(x, 0, "diverged", rotation=90, ha="center", va="bottom")
            continue
        bottom = 0.0
        for number, (name, value) in enumerate(bar.terms.items()):
            if value > 0:
                axis.bar(x - 0.2, value, 0.4, bottom, color=f"C{number}", label=name)
            bottom += value
        low, high, mean = min(bar.measured), max(bar.measured), float(np.mean(bar.measured))
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]  # not below 0: a mean is rounded
        axis.bar(x + 0.2, mean, 0.3, color="black", yerr=error, ecolor="gray", label="measured")


def save(figure: Figure, title: str, path: Path) -> None:
    """Writes a picture, PNG or PDF; a kill leaves the old file or the new one, whole."""
    wide = int(10 * figure.get_figwidth())  # characters that fit in a line
    figure.suptitle(_wrapped(title, wide))
    temporary, kind = path.with_name(f".{path.name}"), path.suffix.removeprefix(".")
    undated = {"CreationDate": None} if kind == "pdf" else None  # the same bytes every time
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=150, format=kind, metadata=undated)
    temporary.replace(path)
