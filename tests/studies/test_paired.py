"""Paired differences and ratios against SciPy's paired t-test, and the table of them."""

import numpy as np
import pytest
from scipy.stats import gmean, ttest_rel

from jfedsl.studies.outcome import Outcome
from jfedsl.studies.paired import CAPTION, ONE_SEED, Measure, difference, paired_table, ratio
from jfedsl.studies.tables import contents

VALUES, REFERENCE = [0.91, 0.88, 0.93, 0.9], [0.89, 0.885, 0.9, 0.87]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_intervals_are_those_of_a_paired_t_test(n: int) -> None:
    one, other = np.array(VALUES[:n]), np.array(REFERENCE[:n])
    found, interval = difference(one, other), ttest_rel(one, other).confidence_interval(0.95)
    expected = (np.mean(one - other), interval.low, interval.high, n)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    found = ratio(one, other)
    interval = ttest_rel(np.log(one), np.log(other)).confidence_interval(0.95)
    expected = (gmean(one / other), *np.exp([interval.low, interval.high]), n)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_only_seeds_that_both_have_count() -> None:
    one, other = [0.91, None, 0.93, 0.9], [0.89, 0.885, None, 0.87]
    assert difference(one, other) == difference([0.91, 0.9], [0.89, 0.87])
    assert ratio(one, other) == ratio([0.91, 0.9], [0.89, 0.87])
    assert difference([None, 1.0], [1.0, None]) is None is ratio([None], [None])
    assert difference([3.0], [1.0]) == (2.0, None, None, 1), "one seed says nothing of chance"
    assert ratio([3.0], [1.0]) == pytest.approx((3.0, None, None, 1))
    assert ratio([0.0, 1.0], [1.0, 1.0]) is None, "no ratio of nothing"


def test_a_table_says_what_is_known() -> None:
    accuracy = {"plain": [0.9, 0.8, 0.7], "light": [0.8, 0.75, 0.6], "wild": [None, 0.5, None]}
    megabytes = {"plain": [4.0, 4.0, 8.0], "light": [1.0, 1.0, 2.0], "wild": [None, 0.0, None]}
    measures = [Measure("accuracy", False, accuracy), Measure("MB", True, megabytes)]
    assert paired_table(measures, "plain").splitlines() == [
        "| setting | accuracy, difference | MB, ratio |",
        "| --- | --- | --- |",
        "| light | -0.0833 (-0.155 to -0.0116) | 0.25 |",
        "| wild | -0.3 (no interval, 1 of 3) | - |",
    ]


def outcome(name: str, *accuracies: float) -> Outcome:
    summaries = [{"final_accuracy": a, "final_accuracy_deployed": a} for a in accuracies]
    return Outcome(name, [*summaries], [[]] * len(accuracies))


def test_a_study_compares_with_its_reference_unless_it_is_alone() -> None:
    light, plain = outcome("light", 0.8, 0.75), outcome("plain*", 0.9, 0.8)
    text = contents([light, plain], {}, "plain*")
    assert f"\n\nAgainst plain&#42;. {CAPTION}\n\n| setting | test accuracy, difference |" in text
    assert text.endswith("| light | -0.075 (-0.393 to +0.243) | -0.075 (-0.393 to +0.243) |")
    assert "Against light. " in contents([light, plain], {}), "the first"
    assert "Against" not in contents([light], {})
    text = contents([outcome("a", 0.8), outcome("b", 0.9)], {})
    assert ONE_SEED in text and text.endswith("| b | +0.1 (no interval) | +0.1 (no interval) |")
