"""Which training examples are held out for validation, and which are left to train on."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jfedsl.data import validation
from jfedsl.data.validation import held_count, hold_out, needed


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9, 0.999]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_example_is_held_out_or_left_to_train(
    sizes: list[int], fraction: float, seed: int
) -> None:
    shares = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    held = hold_out(shares, fraction, seed)
    counts = [held_count(size, fraction) for size in sizes]
    assert [len(kept) for kept in held.shares] == [
        n - c for n, c in zip(sizes, counts, strict=True)
    ]
    assert min(map(len, held.shares)) >= 1
    for share, kept, count in zip(shares, held.shares, counts, strict=True):
        ours = held.validation[np.isin(held.validation, share)]
        assert len(ours) == count and np.array_equal(np.union1d(kept, ours), share)
    assert held.without.tolist() == [n for n, count in enumerate(counts) if count == 0]


def test_the_choice_follows_from_the_seed() -> None:
    shares = [np.arange(50), np.arange(50, 100)]
    first, again, other = (hold_out(shares, 0.2, seed).validation for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[:10], first[10:] - 50), "each client draws for itself"


def test_counts_are_rounded_and_leave_one() -> None:
    assert [held_count(n, 0.1) for n in (1, 4, 5, 14, 15)] == [0, 0, 1, 1, 2]
    assert [held_count(n, 0.9) for n in (1, 2, 3)] == [0, 1, 2]


@given(training=st.integers(1, 100), fraction=st.floats(0, 0.9999999))
@example(training=1, fraction=0.1)
@example(training=16, fraction=0.99999)
def test_needed_is_the_fewest_that_leave_a_batch(training: int, fraction: float) -> None:
    least = needed(training, fraction)
    assert least - held_count(least, fraction) == training
    assert training == least or least - 1 - held_count(least - 1, fraction) < training


def test_needed_counts_only_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(validation, "held_count", lambda n, f: counts.append(n) or held_count(n, f))
    assert needed(16, 0.99999) == 1_550_000 + 1 and len(counts) < 5


def test_an_example_of_several_clients_is_on_one_side_alone() -> None:
    shares = [np.arange(8), np.arange(8), np.array([0])]
    held = hold_out(shares, 0.5, seed=0)
    assert 0 < len(held.validation) < 8 and min(map(len, held.shares)) >= 1
    assert not np.isin(np.concatenate(held.shares), held.validation).any()
