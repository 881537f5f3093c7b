"""Ranks order weights by score, ties by position; rates become counts, to one weight."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.pruning.ranks import ranks, removed_counts

SHAPES = [(3, 4), (2, 2, 5), (7, 1)]
SIZES = [12, 20, 7]
SCOPES = ("global", "layer")
every_scope = pytest.mark.parametrize("scope", SCOPES)


def jitted(scope: str) -> Callable[[list[Array]], list[Array]]:
    return jax.jit(lambda scores: ranks(scores, scope))


RANKS = {scope: jitted(scope) for scope in SCOPES}


def scores(seed: int, distinct: int) -> list[Array]:
    """Scores of three leaves; the fewer distinct values, the more ties."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.integers(0, distinct, shape), jnp.float32) for shape in SHAPES]


def flat(leaves: list[Array]) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def groups(leaves: list[Array], scope: str) -> list[np.ndarray]:
    """The weights that are ranked together, one array for each group."""
    return [flat(leaves)] if scope == "global" else [np.ravel(leaf) for leaf in leaves]


@every_scope
@given(seed=st.integers(0, 2**32 - 1), distinct=st.sampled_from([1, 2, 5, 10**6]))
def test_ranks_number_a_stable_ascending_order(scope: str, seed: int, distinct: int) -> None:
    values = scores(seed, distinct)
    ranked = RANKS[scope](values)
    assert [rank.shape for rank in ranked] == SHAPES
    assert {rank.dtype for rank in ranked} == {np.dtype(np.int32)}
    for group, rank in zip(groups(values, scope), groups(ranked, scope), strict=True):
        np.testing.assert_array_equal(rank[np.argsort(group, kind="stable")], np.arange(len(group)))


@every_scope
def test_among_equal_scores_the_first_has_the_lowest_rank(scope: str) -> None:
    ranked = RANKS[scope]([jnp.ones(shape) for shape in SHAPES])
    for rank in groups(ranked, scope):
        np.testing.assert_array_equal(rank, np.arange(len(rank)))


@every_scope
def test_one_leaf_competes_with_itself_in_either_scope(scope: str) -> None:
    (rank,) = ranks([jnp.array([[3.0, 1.0], [2.0, 0.0]])], scope)
    np.testing.assert_array_equal(rank, [[3, 1], [2, 0]])


@every_scope
def test_without_leaves_there_are_no_ranks(scope: str) -> None:
    assert ranks([], scope) == []
    assert removed_counts(np.array([0.5]), [], scope).shape == (1, 0)


@every_scope
@given(
    rates=st.lists(st.floats(0, 0.999), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    distinct=st.sampled_from([1, 3, 10**6]),
)
def test_the_rate_is_met_to_one_weight_by_the_lowest_scores(
    scope: str, rates: list[float], seed: int, distinct: int
) -> None:
    values = scores(seed, distinct)
    ranked = RANKS[scope](values)
    counts = removed_counts(np.array(rates), SIZES, scope)
    assert counts.shape == (len(rates), len(SIZES))
    for rate, row in zip(rates, counts, strict=True):
        removed = [np.asarray(r) < count for r, count in zip(ranked, row, strict=True)]
        for group, pruned in zip(groups(values, scope), groups(removed, scope), strict=True):
            # Rounding to the nearest is off by up to half a weight, as with rate 1/2 of 7 weights.
            assert abs(pruned.sum() - rate * len(group)) <= 0.5 + 1e-9
            assert np.max(group[pruned], initial=-1) <= np.min(group[~pruned], initial=np.inf)


@every_scope
@given(low=st.floats(0, 0.999), high=st.floats(0, 0.999))
def test_a_higher_rate_never_removes_fewer(scope: str, low: float, high: float) -> None:
    counts = removed_counts(np.array(sorted([low, high])), SIZES, scope)
    assert np.all(counts[0] <= counts[1])


def test_under_global_every_leaf_has_the_count_of_all_together() -> None:
    np.testing.assert_array_equal(removed_counts(np.array([0.5]), [10, 30], "global"), [[20, 20]])
    np.testing.assert_array_equal(removed_counts(np.array([0.5]), [10, 30], "layer"), [[5, 15]])


def test_counts_of_large_models_are_exact() -> None:
    # In float32 the product would be off by a few weights.
    sizes = [67_000_001]
    counts = removed_counts(np.array([0.3]), sizes, "layer")
    assert counts.dtype == np.int32
    assert counts[0, 0] == round(0.3 * sizes[0]) == 20_100_000
