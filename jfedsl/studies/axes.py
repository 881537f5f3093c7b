"""What the metric of runs is drawn against, and the points of their curves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jfedsl.run.plots.spread import Curve
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord

# An evaluation of a run: values on all `AXES`, None where it has no network, and deployed metric.
Point = Sequence[float | None]


class Axis(NamedTuple):
    """A horizontal axis of curves of the metric.

    Attributes:
      label: of the axis, with the unit.
      column: its name in files.
      value: from the rows of metrics.csv up to an evaluation, where that lies on the axis.
    """

    label: str
    column: str
    value: Callable[[Sequence[Row]], float | None]


def _seconds(rows: Sequence[Row]) -> float | None:
    seconds: float | None = rows[-1].get("cumulative_simulated_seconds")
    return seconds


def _joules(rows: Sequence[Row]) -> float | None:
    return sum(r["energy_joules"] for r in rows) if "energy_joules" in rows[-1] else None


ROUND = Axis("round", "round", lambda rows: rows[-1]["round"])
MEGABYTES = Axis(
    "megabytes sent", "megabytes sent, all streams", lambda rows: rows[-1]["cumulative_bytes"] / 1e6
)
SECONDS = Axis("simulated time (s)", "simulated seconds", _seconds)
JOULES = Axis("energy of all devices (J)", "joules of all devices", _joules)
AXES = (ROUND, MEGABYTES, SECONDS, JOULES)
Axes = Sequence[Axis]


def points(rows: Sequence[Row], task: TaskRecord = CLASSIFICATION) -> list[Point]:
    """The evaluations of a run.

    Args:
      rows: of metrics.csv.
      task: what the run is judged by.
    """
    ends = [i + 1 for i, row in enumerate(rows) if row[task.tested] is not None]
    return [
        (*(axis.value(rows[:end]) for axis in AXES), task.deployed(rows[end - 1])) for end in ends
    ]


def curves(runs: Sequence[Sequence[Point]], axes: Axes) -> list[Curve]:
    """One curve for each run: values on the axes and deployed metric, at shared evaluations.

    Args:
      runs: the evaluations of each run; none for a run that diverged, whose curve is empty.
      axes: of the curves.
    """
    columns = [*(AXES.index(axis) for axis in axes), -1]
    rounds = [{point[0] for point in run} for run in runs if run]
    shared = set.intersection(*rounds) if rounds else set()
    return [
        [tuple(_known(point[column]) for column in columns) for point in run if point[0] in shared]
        for run in runs
    ]


def _known(value: float | None) -> float:
    return float("nan") if value is None else value
