"""What runs cost for tables of studies: to a target, between evaluations, and in a median round."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord, read_record
from jfedsl.studies.axes import Point

# The entry that `with_costs` adds to a summary.
COSTS = "costs"


class Costs(NamedTuple):
    """What a run had cost at some time, in all since its start.

    Attributes:
      rounds: trained.
      bytes: sent, of all streams.
      seconds: of the simulated network; None without one.
      joules: of all devices; None without a network.
    """

    rounds: float
    bytes: float
    seconds: float | None
    joules: float | None


def to_target(
    run: Sequence[Point], target: float, period: int = 1, task: TaskRecord = CLASSIFICATION
) -> Costs | None:
    """What a run had cost when its deployed metric reached a target, and held it.

    The target is reached at the first evaluation that is as good, if the next evaluation is as good
    too: one evaluation alone may be luck. Costs are interpolated linearly between that evaluation
    and the one before it, where the metric crosses the target. Where the first evaluation of all is
    as good, its own costs count.

    Args:
      run: its evaluations, see `axes.points`.
      target: value of the metric.
      period: rounds in an aggregation period; evaluations elsewhere do not count, see `summarise`.
      task: what the run is judged by.

    Returns:
      The costs; None if the target was not reached, or not held because the run ended there.
    """
    # Values on `AXES`, then the metric; a run's rounds and metric are always known.
    evaluated: list[Any] = [point for point in run if not point[0] or point[0] % period == 0]
    values = [point[-1] for point in evaluated]
    good = [task.reaches(value, target) for value in values]
    first = next((n for n in range(len(good) - 1) if good[n] and good[n + 1]), None)
    if first is None:
        return None
    end = _costs(evaluated[first])
    if first == 0 or not np.isfinite(values[first - 1]):
        return end
    before = _costs(evaluated[first - 1])
    share = (target - values[first - 1]) / (values[first] - values[first - 1])
    return Costs(
        before.rounds + share * (end.rounds - before.rounds),
        before.bytes + share * (end.bytes - before.bytes),
        _between(before.seconds, end.seconds, share),
        _between(before.joules, end.joules, share),
    )


def _between(before: float | None, end: float | None, share: float) -> float | None:
    return None if before is None or end is None else before + share * (end - before)


def _costs(point: Any) -> Costs:
    rounds, megabytes, seconds, joules, _ = point
    return Costs(rounds, megabytes * 1e6, seconds, joules)


def median_of_rounds(rows: Sequence[Row], period: int = 1) -> float | None:
    """Median over aggregation periods of the simulated seconds of a period, divided by its rounds.

    Rounds of a period differ, because models are sent at its ends alone. A last period that is not
    whole is left out, unless it is the only one.

    Args:
      rows: all rows of metrics.csv.
      period: rounds in an aggregation period.

    Returns:
      Seconds a round; None without a simulated network.
    """
    if "simulated_seconds" not in rows[0]:
        return None
    seconds = np.array([row["simulated_seconds"] for row in rows], np.float64)
    whole = seconds[: len(seconds) // period * period]
    periods = whole.reshape(-1, period) if whole.size else seconds[None]
    return float(np.median(periods.mean(axis=1)))


def with_costs(
    summary: Mapping[str, Any],
    run: Sequence[Point],
    median_seconds: float | None,
    target: float,
    period: int,
) -> dict[str, Any]:
    """A run's summary with what columns of tables need beside it.

    Args:
      summary: as in summary.json.
      run: its evaluations, see `axes.points`.
      median_seconds: see `median_of_rounds`.
      target: value of the metric to reach.
      period: rounds in an aggregation period.
    """
    reached = to_target(run, target, period, read_record(summary))
    costs = {"to_target": reached and reached._asdict(), "median_round_seconds": median_seconds}
    return {**summary, COSTS: costs}
