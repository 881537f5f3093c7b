"""Columns of a study's table, and what a cell says of the seeds of a setting."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jfedsl.run.storage.task_record import TaskRecord
from jfedsl.studies.costs import COSTS

# A column of a table: from a run's summary, as in summary.json, its number; None if it has none.
Column = Callable[[dict[str, Any]], float | None]


def metric_columns(tasks: Sequence[TaskRecord]) -> dict[str, Column]:
    """Columns of the metric at the end of a run, as tested and as deployed, by their titles.

    Args:
      tasks: of the runs, each once; a run has none of the columns of another metric.
    """
    columns: dict[str, Column] = {}
    for task in tasks:
        suffix = "" if len(tasks) == 1 else f" {task.label}"
        columns[task.title] = partial(_entry, TaskRecord.final(task.tested))
        columns[f"deployed{suffix}"] = partial(_entry, TaskRecord.final(task.columns[2]))
    return columns


def test_columns(tasks: Sequence[TaskRecord]) -> dict[str, Column]:
    """Columns of the test set, by their titles, for tasks that are judged on a validation set."""
    columns: dict[str, Column] = {}
    for test in (task._replace(split="test") for task in tasks if task.split != "test"):
        columns[test.title] = partial(_entry, TaskRecord.final(test.tested))
        columns[f"{test.title}, deployed"] = partial(_entry, TaskRecord.final(test.columns[2]))
    return columns


def _entry(name: str, summary: Mapping[str, Any]) -> float | None:
    value: float | None = summary.get(name)
    return value


def megabytes(*streams: str) -> Column:
    """A column: megabytes sent on some streams together."""
    return lambda summary: sum(summary["bytes"][stream] for stream in streams) / 1e6


def simulated(name: str) -> Column:
    """A column: a total of the simulated network, by its name in summary.json."""
    return lambda summary: summary["simulated"] and summary["simulated"][name]


def to_target(name: str, unit: float = 1.0) -> Column:
    """A column: what a run had cost when it reached its target, by the name in `Costs`.

    Args:
      name: of the cost.
      unit: what the cost is divided by.
    """

    def column(summary: dict[str, Any]) -> float | None:
        reached: dict[str, float | None] | None = summary[COSTS]["to_target"]
        cost = reached[name] if reached else None
        return None if cost is None else cost / unit

    return column


def median_round_seconds(summary: dict[str, Any]) -> float | None:
    """A column: the median of simulated seconds a round."""
    seconds: float | None = summary[COSTS]["median_round_seconds"]
    return seconds


def mean_and_range(values: Sequence[float | None]) -> str:
    """Mean, least and greatest of the values of the seeds that have one, and how many have one.

    >>> mean_and_range([1.5, 2.5, None]), mean_and_range([3, 3]), mean_and_range([None])
    ('2 (1.5 to 2.5, 2 of 3)', '3', '-')
    """
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    notes, low, high = [], _number(min(known)), _number(max(known))
    if low != high:
        notes.append(f"{low} to {high}")
    if len(known) < len(values):
        notes.append(f"{len(known)} of {len(values)}")
    return _number(float(np.mean(known))) + (f" ({', '.join(notes)})" if notes else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
