"""Rates from capacity: the widest rung that a client can compute in time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.pruning.policy import parse, rates_within

LADDER, FLOPS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.6, 0.3, 0.1)


@pytest.mark.parametrize(
    "text", ["0", "2", "a", "1-0.5", "0.5,", "0.1-2", "0-1", "-1", "nan", "0.5-"]
)
def test_what_is_no_capacity_is_refused(text: str) -> None:
    assert parse(text) is None


def test_one_for_all_one_each_or_a_range() -> None:
    one, each, spread = (parse(text) for text in ("0.5", "0.5, 1,0.25", ".25-1"))
    assert one and each and spread
    assert one.spread(3, 0).tolist() == [0.5, 0.5, 0.5]
    assert each.spread(3, 0).tolist() == [0.5, 1.0, 0.25]
    found = spread.spread(4, 0)
    assert sorted(found.tolist()) == [0.25, 0.5, 0.75, 1.0]
    assert spread.spread(4, 0).tolist() == found.tolist()
    assert any(spread.spread(4, seed).tolist() != found.tolist() for seed in range(1, 5))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_the_widest_rung_that_fits_else_the_narrowest(capacities: list[float]) -> None:
    rates = rates_within(np.array(capacities), LADDER, FLOPS)
    for capacity, rate in zip(capacities, rates, strict=True):
        rung = LADDER.index(1 - rate)
        assert FLOPS[rung] <= capacity or rung == 3
        assert rung == 0 or FLOPS[rung - 1] > capacity
