"""Claims about settings, tested on paired seeds: verdicts, and the table of them."""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jfedsl.run.plots.page import escaped
from jfedsl.studies.columns import Column
from jfedsl.studies.outcome import Outcome, values_of
from jfedsl.studies.paired import Estimate, Values, cell, difference, ratio

CAPTION = (
    "Claims. A comparison is of paired seeds, by the 95% interval of Student's t, for ratios on "
    "their logarithms. It holds if the whole interval is on the claimed side of the bound, does "
    "not hold if all of it is on the other side, and is not shown if the bound is in the interval "
    "or fewer than two seeds have all the numbers. A / B < C / D is tested as (A / B) / (C / D) < "
    "1. A claim holds if all its comparisons do. It does not hold if none does and at least one "
    "does not hold, is not shown if no comparison is decided, and otherwise depends. n of N counts "
    "the seeds that have all the numbers. Without an interval all seeds agree to the digits shown. "
    "Intervals are not widened for the number of claims."
)
# Metrics are float32, and a ratio passes through logarithms: an end this close is the bound.
_ROUNDING = 1e-6


class Verdict(enum.StrEnum):
    """What seeds say of a comparison or of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_SHOWN = "not shown"
    DEPENDS = "depends"


class Comparison(NamedTuple):
    """A statement about settings, such as `A / B < 1`.

    Attributes:
      text: as it was written.
      settings: A and B; of a ratio of ratios A, B, C and D.
      is_ratio: whether A and B are compared by their ratio instead of their difference.
      below: whether it is claimed to be less than the bound, rather than greater.
      bound: what it is compared with; 1 for a ratio of ratios.
    """

    text: str
    settings: tuple[str, ...]
    is_ratio: bool
    below: bool
    bound: float


class Claim(NamedTuple):
    """A sentence that comparisons of one measure stand for.

    Attributes:
      text: the sentence.
      measure: title of a column of the study's tables.
      column: that column.
      to_target: whether it is a cost to the target, which runs may miss.
      comparisons: that make the claim, one or more.
    """

    text: str
    measure: str
    column: Column
    to_target: bool
    comparisons: tuple[Comparison, ...]


class Judged(NamedTuple):
    """What seeds say of a comparison.

    Attributes:
      estimate: of what is compared with the bound; None if no seed has all the numbers, or if a
        number of a ratio is not positive.
      common: number of seeds that have all the numbers.
      seeds: number of all seeds.
      verdict: of the comparison.
    """

    estimate: Estimate | None
    common: int
    seeds: int
    verdict: Verdict


def judge(comparison: Comparison, values: Mapping[str, Values]) -> Judged:
    """Tests a comparison on the seeds that have a number for each of its settings.

    Args:
      comparison: of some settings.
      values: by setting, one number for each seed, or None.
    """
    seeds = list(zip(*(values[name] for name in comparison.settings), strict=True))
    known = [numbers for numbers in seeds if None not in numbers]
    rows = np.array(known, np.float64).reshape(-1, len(comparison.settings))
    estimate = _estimate(comparison, rows)
    size = comparison.bound if comparison.is_ratio else np.abs(rows).max(initial=0.0)
    verdict = _verdict(comparison, estimate, float(_ROUNDING * size))
    return Judged(estimate, len(rows), len(seeds), verdict)


def _estimate(comparison: Comparison, rows: np.ndarray) -> Estimate | None:
    """Of what is compared with the bound, from the numbers of each seed `[n, settings]`."""
    if not comparison.is_ratio:
        return difference(rows[:, 0].tolist(), rows[:, 1].tolist())
    if (rows <= 0).any():
        return None
    if len(comparison.settings) == 2:
        return ratio(rows[:, 0].tolist(), rows[:, 1].tolist())
    first, second = rows[:, 0] / rows[:, 1], rows[:, 2] / rows[:, 3]
    return ratio(first.tolist(), second.tolist())


def _verdict(comparison: Comparison, estimate: Estimate | None, margin: float) -> Verdict:
    """What an interval says; an end within the margin of the bound touches it."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return Verdict.NOT_SHOWN
    less = estimate.high < comparison.bound - margin
    greater = estimate.low > comparison.bound + margin
    if not (less or greater):
        return Verdict.NOT_SHOWN
    return Verdict.HOLDS if less == comparison.below else Verdict.FAILS


def verdict_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim from those of its comparisons.

    >>> verdict_of([Verdict.HOLDS, Verdict.NOT_SHOWN]).value
    'depends'
    """
    different = set(verdicts)
    if different == {Verdict.HOLDS}:
        return Verdict.HOLDS
    if Verdict.HOLDS in different:
        return Verdict.DEPENDS
    return Verdict.FAILS if Verdict.FAILS in different else Verdict.NOT_SHOWN


def claims_table(claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> str:
    """A Markdown table with a row for each comparison; the first one of a claim has its verdict.

    Args:
      claims: about settings of the study.
      outcomes: of all settings, with the same seeds.
    """
    titles = ("claim", "verdict", "measure", "comparison", "estimate", "seeds", "of comparison")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for claim in claims:
        values = {outcome.name: values_of(outcome, claim.column) for outcome in outcomes}
        results = [judge(comparison, values) for comparison in claim.comparisons]
        verdict = verdict_of([result.verdict for result in results])
        head = [escaped(claim.text), f"**{verdict}**", escaped(claim.measure)]
        for comparison, result in zip(claim.comparisons, results, strict=True):
            row = [*head, _shown(comparison), *_cells(claim, comparison, result)]
            lines.append(f"| {' | '.join(row)} |")
            head = [""] * len(head)
    return "\n".join(lines)


def _shown(comparison: Comparison) -> str:
    """The text of a comparison; its own < and >, between spaces, are no markup."""
    text = escaped(" ".join(comparison.text.split()))
    return text.replace(" &#60; ", " < ").replace(" &#62; ", " > ")


def _cells(claim: Claim, comparison: Comparison, result: Judged) -> tuple[str, str, str]:
    """Estimate, seeds and verdict of a comparison, as the table has them."""
    form = "{:.4g}" if comparison.is_ratio else "{:+.4g}"
    estimate = cell(result.estimate, result.common, form.format)
    if result.estimate is None and result.common:
        estimate = "- (no ratio: a number is not positive)"
    seeds = str(result.seeds)
    if result.common < result.seeds:
        seeds = f"{result.common} of {result.seeds}"
        if claim.to_target and result.common:
            who = "both" if len(set(comparison.settings)) == 2 else "all"
            seeds += f", those in which {who} reached the target"
    return estimate, seeds, result.verdict
