"""Settings against a reference, seed by seed: mean differences and ratios with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

Values = Sequence[float | None]  # one for each seed, None where a run has no such number

LEVEL = 0.95
CAPTION = (
    "Differences are of a setting minus the reference, ratios of a setting over the reference, both"
    " seed by seed: the mean, for ratios the geometric mean, and a 95% interval of Student's t over"
    " the paired seeds, for ratios on their logarithms. Seeds that one of the two lacks are left "
    "out; n of N counts those left. Without an interval all seeds agree to the digits shown. "
    "Intervals are not widened for the number of settings."
)
ONE_SEED = "With one seed there is no interval: nothing is known of chance."


class Estimate(NamedTuple):
    """A mean over paired seeds.

    Attributes:
      mean: of differences, or the geometric mean of ratios.
      low: lower end of the 95% interval; None with one seed.
      high: upper end.
      seeds: number of seeds that both settings have.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int


def difference(values: Values, reference: Values) -> Estimate | None:
    """The mean of paired differences, with its interval by Student's t.

    Args:
      values: of a setting, `[seeds]`.
      reference: of the reference, with the same seeds in the same order.

    Returns:
      The estimate; None if no seed has both.
    """
    pairs = _common(values, reference)
    return _estimate(pairs[:, 0] - pairs[:, 1]) if len(pairs) else None


def ratio(values: Values, reference: Values) -> Estimate | None:
    """The geometric mean of paired ratios, with its interval by Student's t on their logarithms.

    Args:
      values: of a setting, `[seeds]`.
      reference: of the reference, with the same seeds in the same order.

    Returns:
      The estimate; None if no seed has both, or if one of the numbers is not positive.
    """
    pairs = _common(values, reference)
    if not len(pairs) or (pairs <= 0).any():
        return None
    mean, low, high, seeds = _estimate(np.log(pairs[:, 0] / pairs[:, 1]))
    low, high = (None if end is None else float(np.exp(end)) for end in (low, high))
    return Estimate(float(np.exp(mean)), low, high, seeds)


def _common(values: Values, reference: Values) -> np.ndarray:
    """The pairs of numbers that both settings have, float64 `[n, 2]`."""
    pairs = [
        (value, other)
        for value, other in zip(values, reference, strict=True)
        if value is not None and other is not None
    ]
    return np.array(pairs, np.float64).reshape(-1, 2)


def _estimate(sample: np.ndarray) -> Estimate:
    """The mean of a sample `[n]`, with an interval by Student's t of n - 1 degrees of freedom."""
    mean, n = float(np.mean(sample)), len(sample)
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = stdtrit(n - 1, (1 + LEVEL) / 2) * np.std(sample, ddof=1) / np.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), n)


class Measure(NamedTuple):
    """A column of a paired table.

    Attributes:
      title: of the column.
      is_ratio: whether settings are compared by ratios instead of differences.
      values: by setting, one number for each seed.
    """

    title: str
    is_ratio: bool
    values: Mapping[str, Values]


def paired_table(measures: Sequence[Measure], reference: str, align: str = "---") -> str:
    """A Markdown table with a row for each setting but the reference.

    Args:
      measures: its columns, with the same settings; names of settings are Markdown.
      reference: name of the setting that the others are compared with.
      align: the mark of columns of numbers.
    """
    titles = [f"{m.title}, {'ratio' if m.is_ratio else 'difference'}" for m in measures]
    lines = [f"| {' | '.join(['setting', *titles])} |"]
    lines += [f"| {' | '.join(['---', *[align] * len(measures)])} |"]
    for name in measures[0].values:
        if name != reference:
            cells = [_compared(m, name, reference) for m in measures]
            lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _compared(measure: Measure, name: str, reference: str) -> str:
    compare, form = (ratio, _as_ratio) if measure.is_ratio else (difference, _as_difference)
    values = measure.values[name]
    return cell(compare(values, measure.values[reference]), len(values), form)


def _as_ratio(value: float) -> str:
    return f"{value:.3g}"


def _as_difference(value: float) -> str:
    return f"{round(value, 9):+.3g}"  # float32 metrics that are equal differ by less


def cell(estimate: Estimate | None, seeds: int, form: Callable[[float], str] = _as_ratio) -> str:
    """What a table says of an estimate from so many seeds.

    >>> cell(Estimate(0.5, 0.4, 0.6, 3), 3), cell(Estimate(0.5, None, None, 1), 3), cell(None, 3)
    ('0.5 (0.4 to 0.6)', '0.5 (no interval, 1 of 3)', '-')
    """
    if estimate is None:
        return "-"
    mean, low, high, common = estimate
    notes = []
    if low is None or high is None:
        notes.append("no interval")
    elif form(low) != form(high):
        notes.append(f"{form(low)} to {form(high)}")
    if common < seeds:
        notes.append(f"{common} of {seeds}")
    return form(mean) + (f" ({', '.join(notes)})" if notes else "")
