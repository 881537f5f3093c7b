"""Costs to a target against np.interp, and the median seconds of a round."""

from typing import Any

import numpy as np
import pytest

from jfedsl.run.storage.task_record import CLASSIFICATION, TaskRecord
from jfedsl.studies.axes import points
from jfedsl.studies.costs import Costs, median_of_rounds, to_target

SECONDS, JOULES = [2.0, 8.0, 1.0, 4.0, 3.0, 9.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
LOSS = TaskRecord("absolute_error", higher_is_better=False, of_classes=False)


def rows_of(
    values: list[float | None], task: TaskRecord = CLASSIFICATION, network: bool = True
) -> list[dict[str, Any]]:
    """Rows of metrics.csv with these values of the deployed metric, None where not evaluated."""
    rows = []
    for n, value in enumerate(values, 1):
        row = {"round": n, "cumulative_bytes": 100 * n, task.columns[2]: value}
        row[task.tested] = None if value is None else value / 2
        if network:
            clock = {"simulated_seconds": SECONDS[n - 1], "energy_joules": JOULES[n - 1]}
            row |= clock | {"cumulative_simulated_seconds": sum(SECONDS[:n])}
        rows.append(row)
    return rows


@pytest.mark.parametrize("task", [CLASSIFICATION, LOSS])
def test_costs_are_interpolated_between_evaluations(task: TaskRecord) -> None:
    sign = 1 if task.higher_is_better else -1
    rows = rows_of([None, sign * 0.4, None, sign * 0.8, None, sign * 0.7], task)
    found = to_target(points(rows, task), sign * 0.5, task=task)
    ends = [0.4, 0.8]
    costs = ([2, 4], [200, 400], np.cumsum(SECONDS)[[1, 3]], np.cumsum(JOULES)[[1, 3]])
    np.testing.assert_allclose(found, [np.interp(0.5, ends, cost) for cost in costs])
    rows = rows_of([None, sign * 0.4, None, sign * 0.8, None, sign * 0.7], task, network=False)
    assert to_target(points(rows, task), sign * 0.5, task=task) == pytest.approx(
        Costs(2.5, 250, None, None)
    )


def test_a_target_counts_where_the_next_evaluation_holds_it() -> None:
    assert to_target(points(rows_of([0.4, 0.6, 0.4, 0.5, 0.5])), 0.5) == pytest.approx(
        Costs(4, 400, sum(SECONDS[:4]), sum(JOULES[:4]))
    ), "not at round 2, and exactly at round 4"
    assert to_target(points(rows_of([0.4, 0.6, 0.4, 0.6])), 0.5) is None, "nothing follows the last"
    assert (
        to_target(points(rows_of([0.4, 0.45])), 0.5) is None
        and to_target(points(rows_of([0.6])), 0.5) is None
    )
    assert to_target(points(rows_of([0.6, 0.7])), 0.5) == Costs(1, 100, 2, 1), "nothing lies before"


def test_evaluations_within_a_period_do_not_count() -> None:
    rows = rows_of([None, 0.4, 0.9, 0.8, 0.9])
    assert to_target(points(rows), 0.5, period=2) is None
    assert to_target(
        points([*rows, rows_of([*[None] * 5, 0.6])[-1]]), 0.5, period=2
    ) == pytest.approx(Costs(2.5, 250, 10 + 5 / 4, 3 + 12 / 4))


def test_a_metric_that_is_not_finite_is_not_interpolated() -> None:
    rows = rows_of([float("inf"), 0.4, 0.4], LOSS)
    assert to_target(points(rows, LOSS), 0.5, task=LOSS) == Costs(2, 200, 10, 3)


def test_the_median_is_over_periods() -> None:
    rows = rows_of([None] * 6)
    assert median_of_rounds(rows) == np.median(SECONDS)
    assert median_of_rounds(rows, 2) == np.median([5, 2.5, 6])
    assert median_of_rounds(rows[:5], 2) == np.median([5, 2.5]), "whole periods"
    assert median_of_rounds(rows[:2], 5) == 5
    assert median_of_rounds(rows_of([None], network=False)) is None
