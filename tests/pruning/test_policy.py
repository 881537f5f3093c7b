"""Rates from capacity: the widest rung with which a client keeps up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.pruning.policy import rates_within

LADDER, FLOPS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.6, 0.3, 0.1)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_the_widest_rung_that_fits_else_the_narrowest(capacities: list[float]) -> None:
    rates = rates_within(np.array(capacities), LADDER, FLOPS)
    for capacity, rate in zip(capacities, rates, strict=True):
        rung = LADDER.index(1 - rate)
        assert FLOPS[rung] <= capacity or rung == 3
        assert rung == 0 or FLOPS[rung - 1] > capacity
