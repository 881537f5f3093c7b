"""Rates become the nearest rung; clients that are on the same rung throughout are one group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.pruning.ladder import keep_counts, nearest_rung, rung_lines, schedule
from jfedsl.pruning.plan import Source
from jfedsl.pruning.schedule import cubic_ramp

LADDER = (1.0, 0.75, 0.5, 0.25)


@given(st.lists(st.floats(0, 0.99), min_size=1, max_size=8))
def test_no_rung_is_nearer(rates: list[float]) -> None:
    indices = nearest_rung(np.array(rates), LADDER)
    for rate, index in zip(rates, indices, strict=True):
        distances = [abs(1 - rate - rung) for rung in LADDER]
        assert distances[index] <= min(distances) + 1e-9


def test_of_two_rungs_the_one_that_keeps_more() -> None:
    assert nearest_rung(np.array([0.125, 0.375, 0.625, 0.99]), LADDER).tolist() == [0, 1, 2, 3]


def test_counts_are_the_nearest_in_every_group() -> None:
    sources = [Source(0, "a", 16, 4), Source(1, "b", 10, 1), Source(2, "c", 512, 8)]
    assert keep_counts(LADDER, sources).tolist() == [
        [16, 10, 512], [12, 8, 384], [8, 5, 256], [4, 3, 128]
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"0.1 leaves none of the 4 of a in each of its 4 groups"):
        keep_counts((1.0, 0.1), sources)


@given(
    st.lists(st.floats(0, 0.99), min_size=1, max_size=40),
    st.integers(0, 12),
    st.integers(1, 5),
)
def test_every_period_has_the_widths_of_the_ramp(
    rates: list[float], ramp_rounds: int, period: int
) -> None:
    groups, width_configs, config_of_round = schedule(rates, LADDER, ramp_rounds, period)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(rates)))
    assert len(groups) <= len(LADDER), "whatever the number of clients and of their rates"
    final = [
        min(LADDER, key=lambda rung, rate=rate: (abs(1 - rate - rung), -rung)) for rate in rates
    ]
    rungs = nearest_rung(cubic_ramp(1 - np.array(final), ramp_rounds), LADDER)
    changes = np.zeros(len(groups), int)
    before = None
    for start in range(0, ramp_rounds + 3 * period, period):
        row = width_configs[config_of_round[min(start, len(config_of_round) - 1)]]
        for group, members in enumerate(groups):
            assert set(rungs[min(start, ramp_rounds), members].tolist()) == {row[group]}
        changes += 0 if before is None else np.array(row) != before
        before = np.array(row)
    assert (changes <= len(LADDER) - 1).all(), "at most once a rung"
    assert len(width_configs) <= 1 + len(groups) * (len(LADDER) - 1)


def test_without_a_ramp_there_is_one_width_config_and_a_group_for_each_rung() -> None:
    groups, width_configs, config_of_round = schedule([0.5, 0.2, 0.45, 0.5], LADDER, 0, 3)
    assert [g.tolist() for g in groups] == [[1], [0, 2, 3]] and width_configs == ((1, 2),)
    assert config_of_round.tolist() == [0]


def test_the_report_says_what_rates_became() -> None:
    lines = rung_lines(np.array([0.3, 0.2, 0.5]), LADDER)
    assert lines == [
        "pruning rate 0.2 to 0.3: 2 clients keep 0.75 of the channels",
        "pruning rate 0.5: 1 client keeps 0.5 of the channels",
    ]
