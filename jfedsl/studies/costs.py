"""What runs cost for tables of studies: to a target, between evaluations, and in a median round."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord

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
    rows: Sequence[Row], target: float, period: int = 1, task: TaskRecord = CLASSIFICATION
) -> Costs | None:
    """What a run had cost when its deployed metric reached a target, and held it.

    The target is reached at the first evaluation that is as good, if the next evaluation is as good
    too: one evaluation alone may be luck. Costs are interpolated linearly between that evaluation
    and the one before it, where the metric crosses the target. Where the first evaluation of all is
    as good, its own costs count.

    Args:
      rows: all rows of metrics.csv.
      target: value of the metric.
      period: rounds in an aggregation period; evaluations elsewhere do not count, see `summarise`.
      task: what the run is judged by.

    Returns:
      The costs; None if the target was not reached, or not held because the run ended there.
    """
    evaluated = [
        i for i, row in enumerate(rows)
        if row[task.tested] is not None and row["round"] % period == 0
    ]  # fmt: skip
    values = [task.deployed(rows[i]) for i in evaluated]
    good = [task.reaches(value, target) for value in values]
    first = next((n for n in range(len(good) - 1) if good[n] and good[n + 1]), None)
    if first is None:
        return None
    end = _costs(rows[: evaluated[first] + 1])
    if first == 0 or not np.isfinite(values[first - 1]):
        return end
    before = _costs(rows[: evaluated[first - 1] + 1])
    share = (target - values[first - 1]) / (values[first] - values[first - 1])
    return Costs(
        before.rounds + share * (end.rounds - before.rounds),
        before.bytes + share * (end.bytes - before.bytes),
        _between(before.seconds, end.seconds, share),
        _between(before.joules, end.joules, share),
    )


def _between(before: float | None, end: float | None, share: float) -> float | None:
    return None if before is None or end is None else before + share * (end - before)


def _costs(rows: Sequence[Row]) -> Costs:
    """The costs of all these rows."""
    last = rows[-1]
    if "simulated_seconds" not in last:
        return Costs(last["round"], last["cumulative_bytes"], None, None)
    joules = sum(row["energy_joules"] for row in rows)
    seconds = last["cumulative_simulated_seconds"]
    return Costs(last["round"], last["cumulative_bytes"], seconds, joules)


def median_round_seconds(rows: Sequence[Row], period: int = 1) -> float | None:
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
    summary: dict[str, Any], rows: Sequence[Row], target: float, period: int, task: TaskRecord
) -> dict[str, Any]:
    """A run's summary with what columns of tables need beside it.

    Args:
      summary: as in summary.json.
      rows: all rows of metrics.csv.
      target: value of the metric to reach.
      period: rounds in an aggregation period.
      task: what the run is judged by.
    """
    reached = to_target(rows, target, period, task)
    seconds = median_round_seconds(rows, period)
    costs = {"to_target": reached and reached._asdict(), "median_round_seconds": seconds}
    return {**summary, COSTS: costs}
