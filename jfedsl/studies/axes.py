"""What the metric of runs is drawn against, and the points of their curves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jfedsl.run.plots.spread import Curve
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord


class Axis(NamedTuple):
    """A horizontal axis of curves of the metric.

    Attributes:
      label: of the axis, with the unit.
      column: its name in files.
      value: from the rows of metrics.csv up to an evaluation, where that lies on the axis.
    """

    label: str
    column: str
    value: Callable[[Sequence[Row]], float]


ROUND = Axis("round", "round", lambda rows: rows[-1]["round"])
MEGABYTES = Axis(
    "megabytes sent", "megabytes sent, all streams", lambda rows: rows[-1]["cumulative_bytes"] / 1e6
)
SECONDS = Axis(
    "simulated time (s)", "simulated seconds",
    lambda rows: rows[-1]["cumulative_simulated_seconds"],
)  # fmt: skip
JOULES = Axis(
    "energy of all devices (J)", "joules of all devices",
    lambda rows: sum(row["energy_joules"] for row in rows),
)  # fmt: skip
Axes = Sequence[Axis]


def curves(
    runs: Sequence[Sequence[Row]], axes: Axes, task: TaskRecord = CLASSIFICATION
) -> list[Curve]:
    """One curve for each run: values on the axes and deployed metric, at shared evaluations.

    Args:
      runs: rows of metrics.csv; no rows for a run that diverged, whose curve is empty.
      axes: of the curves.
      task: what the runs are judged by.
    """
    evaluated = []  # for each run, the rows up to each evaluation by its round
    for rows in runs:
        ends = [i + 1 for i, row in enumerate(rows) if row[task.tested] is not None]
        evaluated.append({rows[end - 1]["round"]: rows[:end] for end in ends})
    nonempty = [set(run) for run in evaluated if run]
    shared = set.intersection(*nonempty) if nonempty else set()
    return [
        [
            (*(axis.value(rows) for axis in axes), task.deployed(rows[-1]))
            for round_, rows in run.items()
            if round_ in shared
        ]
        for run in evaluated
    ]
