"""Rank correlations of bounds and measurements."""

import numpy as np
import pytest

from jfedsl.studies.ranks import STATISTICS, rank_correlation


@pytest.mark.parametrize("name", STATISTICS)
def test_only_the_order_counts(name: str):
    bounds = [1.0, 2.0, 3.0, 4.0]
    assert rank_correlation(name, bounds, [0.1, 0.2, 5.0, 900.0]) == pytest.approx(1.0)
    assert rank_correlation(name, bounds, [9.0, 3.0, 2.0, 1.0]) == pytest.approx(-1.0)


def test_one_swap_of_neighbours_costs_what_the_definitions_say():
    bounds, measured = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    # 1 - 6 sum d^2 / (n (n^2 - 1)), and (concordant - discordant) / pairs.
    assert rank_correlation("Spearman", bounds, measured) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation("Kendall", bounds, measured) == pytest.approx((5 - 1) / 6)
    # With a tie tau-b divides by the root of the pairs that each side tells apart.
    tied = rank_correlation("Kendall", [1.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert tied == pytest.approx(2 / np.sqrt(2 * 3))


@pytest.mark.parametrize("name", STATISTICS)
def test_settings_that_lack_a_number_are_left_out(name: str):
    bounds, measured = [1.0, None, 2.0, 3.0, 9.0], [1.0, 5.0, 2.0, 3.0, None]
    assert rank_correlation(name, bounds, measured) == pytest.approx(1.0)
    assert rank_correlation(name, bounds[:3], measured[:3]) is None, "two settings are no order"
    assert rank_correlation(name, [1.0] * 3, [1.0, 2.0, 3.0]) is None, "no order among equals"
    assert rank_correlation(name, [1.0, 2.0, 3.0], [1.0] * 3) is None
