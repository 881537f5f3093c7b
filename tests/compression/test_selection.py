"""The highest scores, chosen without sorting: as sorting chooses, ties and extremes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.selection import counted_share, largest

GREATEST = 2**32 - 1
choose = jax.jit(largest)


def by_sorting(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first `counts[r]` of each row in a stable order from the highest down."""
    order = np.argsort(GREATEST - scores.astype(np.int64), axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    return rank < counts[:, None]


@given(
    shape=st.sampled_from([(1, 1), (1, 37), (4, 16), (3, 0)]),
    kinds=st.integers(1, 40),
    shift=st.integers(0, 31),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_stable_sort_with_few_or_many_ties(
    shape: tuple[int, int], kinds: int, shift: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    levels = random.integers(0, 2**32, kinds, np.uint32) >> np.uint32(shift)
    scores = random.choice(levels, shape)
    counts = random.integers(0, shape[1] + 1, shape[0], np.int32)
    np.testing.assert_array_equal(choose(scores, counts), by_sorting(scores, counts))


@pytest.mark.parametrize("score", [0, 1, 2**31 - 1, 2**31, GREATEST - 1, GREATEST])
def test_of_equal_scores_the_first_are_taken_however_extreme(score: int) -> None:
    scores = np.full((17, 16), score, np.uint32)
    counts = np.arange(17, dtype=np.int32)
    np.testing.assert_array_equal(choose(scores, counts), np.arange(16) < counts[:, None])


def test_the_extremes_of_uint32_are_ordered_as_unsigned_numbers() -> None:
    scores = np.array([[0, GREATEST, 2**31, 2**31 - 1, 1, GREATEST]] * 7, np.uint32)
    counts = np.arange(7, dtype=np.int32)
    chosen = np.asarray(choose(scores, counts))
    np.testing.assert_array_equal(chosen, by_sorting(scores, counts))
    np.testing.assert_array_equal(chosen.sum(1), counts)


def test_none_and_all_can_be_chosen_from_any_row() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (2, 37), np.uint32)
    chosen = np.asarray(choose(scores, np.array([0, 37], np.int32)))
    assert not chosen[0].any()
    assert chosen[1].all()


def test_mapped_over_clients_equals_all_rows_at_once() -> None:
    scores = np.random.default_rng(1).integers(0, 5, (3, 4, 16), np.uint32)
    counts = np.random.default_rng(2).integers(0, 17, (3, 4), np.int32)
    together = jax.jit(jax.vmap(largest))(scores, counts)
    expected = by_sorting(scores.reshape(12, 16), counts.reshape(12)).reshape(3, 4, 16)
    np.testing.assert_array_equal(together, expected)


@given(share=st.integers(1, 64), seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_a_share_is_rounded_to_the_nearest_number_but_one_at_least(
    share: int, seed: int, masked: bool
) -> None:
    candidates = np.random.default_rng(seed).random((5, 21)) < 0.4
    candidates[0] = False
    given_mask = jnp.asarray(candidates) if masked else None
    counts, among = counted_share(given_mask, (5, 21), share / 64)
    expected = candidates.sum(1) if masked else np.full(5, 21)
    np.testing.assert_array_equal(among, expected)
    # Multiples of 2^-6 are exact, so NumPy and JAX both round halves to the even number.
    shares = [min(max(round(int(n) * share / 64), 1), int(n)) for n in expected]
    np.testing.assert_array_equal(counts, shares)


def test_a_share_may_be_traced() -> None:
    def counts(share: Array) -> Array:
        return counted_share(None, (2, 20), share)[0]

    together = jax.jit(jax.vmap(counts))(jnp.array([0.01, 0.25, 0.5, 1.0]))
    np.testing.assert_array_equal(together, [[1, 1], [5, 5], [10, 10], [20, 20]])
