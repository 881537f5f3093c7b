"""Verdicts on claims against intervals of NumPy and SciPy, and the table of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import plain
from scipy.stats import t

from jfedsl.studies.claims import CAPTION, Claim, Comparison, Verdict, judge, verdict_of
from jfedsl.studies.columns import to_target
from jfedsl.studies.costs import COSTS
from jfedsl.studies.outcome import Outcome, expected_tasks
from jfedsl.studies.tables import contents

HOLDS, FAILS, NOT_SHOWN, DEPENDS = Verdict
NAMES = ("a", "b", "c", "d")


def interval(sample: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval of Student's t, written out."""
    half = t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5
    return sample.mean(), sample.mean() - half, sample.mean() + half


def expected(low: float, high: float, bound: float, below: bool) -> Verdict:
    if low <= bound <= high:
        return NOT_SHOWN
    return HOLDS if (high < bound) == below else FAILS


@pytest.mark.parametrize("form", ["ratio", "ratio of ratios", "difference"])
def test_verdicts_are_those_of_intervals_over_the_seeds_that_have_all_numbers(form: str) -> None:
    draw, seen = np.random.default_rng(0), []
    for _ in range(200):
        seeds = int(draw.integers(2, 7))
        rows = np.exp(draw.normal(scale=0.3, size=(seeds, 4)))
        lacks = draw.random(rows.shape) < 0.1
        below, bound, size = bool(draw.integers(2)), float(np.exp(draw.normal(scale=0.3))), 2
        if form == "ratio of ratios":
            bound, size = 1.0, 4
        if form == "difference":
            bound -= 1.0
        values = {
            name: [None if lacks[s, i] else float(rows[s, i]) for s in range(seeds)]
            for i, name in enumerate(NAMES)
        }
        comparison = Comparison("", NAMES[:size], form != "difference", below, bound)
        result = judge(comparison, values)
        kept = rows[~lacks[:, :size].any(axis=1)]
        assert (result.common, result.seeds) == (len(kept), seeds)
        if len(kept) < 2:
            assert result.verdict == NOT_SHOWN
            continue
        a, b, c, d = kept.T
        sample = {
            "ratio": np.log(a / b), "ratio of ratios": np.log(a / b / (c / d)), "difference": a - b,
        }[form]  # fmt: skip
        ends = interval(sample)
        if form != "difference":
            ends = tuple(np.exp(ends))
        assert result.estimate is not None
        np.testing.assert_allclose(result.estimate[:3], ends, rtol=1e-9, atol=1e-12)
        assert result.verdict == expected(ends[1], ends[2], bound, below)
        seen.append(result.verdict)
    assert set(seen) == {HOLDS, FAILS, NOT_SHOWN}


def verdict(one: Sequence[float | None], other: Sequence[float | None], **changes: Any) -> Verdict:
    comparison = Comparison("", ("a", "b"), True, True, 1.0)._replace(**changes)
    return judge(comparison, {"a": one, "b": other}).verdict


def test_nothing_is_shown_by_one_pair_by_none_or_at_the_bound_itself() -> None:
    assert verdict([1.0, None], [9.0, 9.0]) == NOT_SHOWN, "one pair"
    assert verdict([1.0, None], [None, 9.0]) == NOT_SHOWN
    assert verdict([0.0, 0.0], [9.0, 9.0]) == NOT_SHOWN, "no ratio of nothing"
    assert verdict([1.0, 1.0], [9.0, 9.0]) == HOLDS
    assert verdict([1.0, 1.0], [9.0, 9.0], below=False) == FAILS
    # Seeds that agree have an interval without width: rounding must not decide on it.
    for bound in (0.1, 0.3, 0.7, 3.0):
        values = [bound * 7, bound * 11, bound * 13], [7.0, 11.0, 13.0]
        for below in (True, False):
            assert verdict(*values, bound=bound, below=below) == NOT_SHOWN
    metrics = np.float32([[0.89, 0.79], [0.9, 0.8]]).astype(float).tolist()
    for below in (True, False):
        change = {"is_ratio": False, "bound": -0.01, "below": below}
        assert verdict(*metrics, **change) == NOT_SHOWN


@pytest.mark.parametrize(
    ("verdicts", "claim"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([FAILS, FAILS], FAILS),
        ([FAILS, NOT_SHOWN], FAILS),
        ([NOT_SHOWN, NOT_SHOWN], NOT_SHOWN),
        ([HOLDS, FAILS], DEPENDS),
        ([HOLDS, NOT_SHOWN], DEPENDS),
        ([HOLDS, FAILS, NOT_SHOWN], DEPENDS),
    ],
)
def test_a_claim_is_judged_by_all_its_comparisons(verdicts: list[Verdict], claim: Verdict) -> None:
    assert verdict_of(verdicts) == verdict_of(verdicts[::-1]) == claim


def outcome(name: str, *megabytes: float | None) -> Outcome:
    """A setting, with the megabytes of each seed to the target."""
    summaries = [{COSTS: {"to_target": size and {"bytes": size * 1e6}}} for size in megabytes]
    return Outcome(name, [*summaries], [[]] * len(megabytes))


def test_the_table_has_a_row_for_each_comparison() -> None:
    outcomes = [
        outcome("light*", 1.0, 1.1, 0.9), outcome("full", 4.0, 4.0, None),
        outcome("never", None, None, None),
    ]  # fmt: skip
    column, title = to_target("bytes", 1e6), "MB to target"
    pair, both = ("light*", "full"), ("full", "light*")
    comparisons = (
        Comparison("light* / full < 1", pair, True, True, 1.0),
        Comparison("full / light* < never / full", (*both, "never", "full"), True, True, 1.0),
        Comparison("light* / full < full / light*", (*pair, *both), True, True, 1.0),
    )
    claims = [
        Claim("It <sends> less", title, column, True, comparisons),
        Claim("It sends more", title, column, True, (comparisons[0]._replace(below=False),)),
    ]
    text = contents(outcomes, {title: column}, claims=claims)
    before, after = text.split(f"\n\n{CAPTION}\n\n")
    assert before == contents(outcomes, {title: column})
    lines = after.splitlines()
    seeds = "2 of 3, those in which both reached the target"
    assert lines == [
        "| claim | verdict | measure | comparison | estimate | seeds | of comparison |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| It &#60;sends&#62; less | **depends** | MB to target | light&#42; / full < 1 | "
        f"0.2622 (0.1431 to 0.4804) | {seeds} | holds |",
        "|  |  |  | full / light&#42; < never / full | - | 0 of 3 | not shown |",
        f"|  |  |  | light&#42; / full < full / light&#42; | 0.06875 (0.02048 to 0.2308) | {seeds} "
        "| holds |",
        "| It sends more | **does not hold** | MB to target | light&#42; / full < 1 | "
        f"0.2622 (0.1431 to 0.4804) | {seeds} | does not hold |",
    ]
    four = [outcome(name, 1.0, 2.0, 0.0) for name in NAMES]
    free = Claim("", title, column, False, (Comparison("a / b > 1", ("a", "b"), True, False, 1.0),))
    assert "| - (no ratio: a number is not positive) | 3 | not shown |" in contents(
        [o._replace(summaries=[{"x": v} for v in (1.0, 2.0, 0.0)]) for o in four],
        {}, claims=[free._replace(column=lambda summary: summary["x"])],
    )  # fmt: skip


def test_the_metric_is_known_before_training() -> None:
    (task,) = expected_tasks([plain(), plain(seed=3)])
    assert task.title == "test accuracy" and task.higher_is_better
    changes: list[dict[str, Any]] = [
        {"validation_fraction": 0.2}, {"metric": "balanced_accuracy"}, {"task": "regression"},
    ]  # fmt: skip
    titles = [task.title for task in expected_tasks(plain(**each) for each in changes)]
    assert titles == [
        "validation accuracy", "test balanced accuracy", "test mean absolute error",
    ]  # fmt: skip
