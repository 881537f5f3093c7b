"""The cubic ramp: from nothing to the final rate, never backwards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.pruning.schedule import cubic_ramp

rates = st.lists(st.floats(0, 0.999), min_size=1, max_size=5).map(np.array)
ramps = st.integers(0, 200)


@given(rates=rates, ramp=ramps)
def test_has_one_row_a_round_and_ends_at_the_final_rates(rates: np.ndarray, ramp: int) -> None:
    rows = cubic_ramp(rates, ramp)
    assert rows.dtype == np.float64
    assert rows.shape == (ramp + 1, len(rates))
    np.testing.assert_array_equal(rows[-1], rates)


@given(rates=rates, ramp=st.integers(1, 200))
def test_starts_at_nothing(rates: np.ndarray, ramp: int) -> None:
    np.testing.assert_array_equal(cubic_ramp(rates, ramp)[0], np.zeros(len(rates)))


@given(rates=rates, ramp=ramps)
def test_never_falls_and_never_exceeds_the_final_rates(rates: np.ndarray, ramp: int) -> None:
    rows = cubic_ramp(rates, ramp)
    assert np.all(np.diff(rows, axis=0) >= 0)
    assert np.all((rows >= 0) & (rows <= rates))


@given(final=st.floats(0, 0.999), ramp=st.integers(1, 200), data=st.data())
def test_matches_the_cubic_formula(final: float, ramp: int, data: st.DataObject) -> None:
    round_ = data.draw(st.integers(0, ramp))
    # Equation 1 of arXiv 1710.01878 with initial sparsity 0, first step 0 and one step a round.
    expected = final + (0 - final) * (1 - round_ / ramp) ** 3
    np.testing.assert_allclose(cubic_ramp(np.array([final]), ramp)[round_, 0], expected, atol=1e-12)


@pytest.mark.parametrize("ramp", [2, 10])
def test_prunes_most_at_the_beginning(ramp: int) -> None:
    growth = np.diff(cubic_ramp(np.array([0.8]), ramp)[:, 0])
    assert np.all(np.diff(growth) < 0)
