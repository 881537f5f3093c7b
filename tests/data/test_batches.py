"""Batches: orders are permutations, epochs see no example twice, draws depend on their count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jax import Array
from scipy import stats

from jfedsl.data.batches import draw, shuffled
from jfedsl.data.partition import Partition, Shares, pack

shuffle = jax.jit(shuffled)
# A test that compares with this rejects a uniform distribution once in a million.
FALSE_ALARM = 1e-6


def positions(count: int, start: int = 0) -> Array:
    return jnp.arange(start, start + count, dtype=jnp.int32)


def keys(count: int, seed: int = 0) -> Array:
    return jax.random.split(jax.random.key(seed), count)


def orders(size: int, count: int) -> np.ndarray:
    """The orders of `range(size)` under many keys, `[count, size]`."""
    over_keys = jax.vmap(shuffled, (0, None, None))
    return np.asarray(jax.jit(over_keys)(keys(count), positions(size), jnp.int32(size)))


def test_is_a_permutation_for_every_small_size_and_many_keys() -> None:
    largest, count = 70, 16
    sizes = positions(largest, 1)
    # Positions past the end of a shorter range repeat its last.
    asked = jnp.minimum(positions(largest)[None], sizes[:, None] - 1)
    over_keys = jax.vmap(jax.vmap(shuffled, (0, None, None)), (None, 0, 0))
    found = np.asarray(jax.jit(over_keys)(keys(count), asked, sizes))
    for size in range(1, largest + 1):
        order = np.sort(found[size - 1, :, :size], axis=1)
        np.testing.assert_array_equal(order, np.tile(np.arange(size), (count, 1)))


@given(size=st.integers(4096, 2**30), start=st.integers(0, 2**30), seed=st.integers(0, 2**32 - 1))
@example(size=4096, start=0, seed=0)
@example(size=4097, start=0, seed=1)
@example(size=50_000, start=49_999, seed=2)
@example(size=2**30 - 1, start=2**30 - 2, seed=3)
@example(size=2**30, start=2**30 - 2, seed=4)
def test_distinct_positions_of_a_large_range_land_on_distinct_ones_within_it(
    size: int, start: int, seed: int
) -> None:
    asked = ((np.arange(4096, dtype=np.int64) + start) % size).astype(np.int32)
    found = np.asarray(shuffle(jax.random.key(seed), jnp.asarray(asked), jnp.int32(size)))
    assert found.dtype == np.int32
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("size", [65_536, 70_001])
def test_is_a_permutation_of_a_large_range(size: int) -> None:
    found = shuffle(jax.random.key(0), positions(size), jnp.int32(size))
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_orders_under_different_keys_differ() -> None:
    found = orders(30, 200)
    assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
def test_every_position_lands_everywhere_alike(size: int) -> None:
    count = 4000
    found = orders(size, count)
    # Each of the `size` tests has `size - 1` degrees of freedom, as counts sum to `count`.
    critical = stats.chi2.isf(FALSE_ALARM, size - 1)
    for landed in found.T:
        counts = np.bincount(landed, minlength=size)
        assert stats.chisquare(counts).statistic < critical


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_order_of_a_few_occurs_alike(size: int) -> None:
    found = orders(size, 4000)
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, len(counts) - 1)


def test_neighbours_are_torn_apart_in_a_large_range() -> None:
    size = 1_000_000
    found = shuffle(jax.random.key(1), positions(4000), jnp.int32(size))
    apart = np.diff(np.asarray(found, np.int64)) % size
    counts = np.histogram(apart, bins=10, range=(0, size))[0]
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, 9)


SIZES = (13, 5, 13, 40)
BATCH = 4


def shares(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Shares:
    """Shares scattered over the data set, so that positions are not mistaken for examples."""
    order = np.random.default_rng(seed).permutation(sum(sizes))
    return np.split(order, np.cumsum(sizes)[:-1])


def packed() -> tuple[np.ndarray, Partition]:
    """Packed for two devices, so that they do not lie in the order of clients."""
    return pack(shares(), np.array([1, 0, 0, 1]), 2)


def draw_from(
    parts: Partition, client: Array, drawn: Array, batch_size: int, sampling: str
) -> Array:
    """`draw` under the run key 0, over many counts `drawn[D]`: `[D, B]`."""
    return jax.vmap(lambda d: draw(jax.random.key(0), parts, client, d, batch_size, sampling))(
        drawn
    )


draw_many = jax.jit(draw_from, static_argnums=(3, 4))


def batches(client: int, count: int, sampling: str) -> np.ndarray:
    """The examples of a client's first batches, `[count, B]`."""
    order, parts = packed()
    found = draw_many(parts, jnp.int32(client), positions(count), BATCH, sampling)
    assert found.dtype == jnp.int32
    return order[np.asarray(found)]


def epochs(client: int, count: int) -> np.ndarray:
    """The examples of each epoch in order, `[count, batches in an epoch * B]`."""
    each = SIZES[client] // BATCH
    return batches(client, count * each, "epoch").reshape(count, each * BATCH)


@pytest.mark.parametrize("client", range(len(SIZES)))
@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_a_client_draws_its_own_examples_and_misses_none_for_good(
    client: int, sampling: str
) -> None:
    found = batches(client, 120, sampling)
    np.testing.assert_array_equal(np.unique(found), np.sort(shares()[client]))


@pytest.mark.parametrize("client", range(len(SIZES)))
def test_within_an_epoch_no_example_comes_twice(client: int) -> None:
    found = np.sort(epochs(client, 12), axis=1)
    assert np.all(np.diff(found, axis=1) > 0)


@pytest.mark.parametrize("client", [0, 3])
def test_each_epoch_has_an_order_of_its_own(client: int) -> None:
    found = epochs(client, 12)
    assert len(np.unique(found, axis=0)) == len(found)


def test_examples_that_fill_no_batch_are_others_each_time() -> None:
    left_out = [np.setdiff1d(shares()[0], epoch) for epoch in epochs(0, 40)]
    assert all(len(rest) == SIZES[0] % BATCH for rest in left_out)
    # 40 times one of 13: that 6 or fewer were ever left out has a chance below 1e-9.
    assert len(np.unique(left_out)) > 6


def test_replacement_repeats_examples_within_a_batch() -> None:
    found = np.sort(batches(1, 40, "replacement"), axis=1)
    # A batch of 4 from 5 has no repeat with probability 0.19: of 40, some do and some do not.
    repeats = np.any(np.diff(found, axis=1) == 0, axis=1)
    assert repeats.any()
    assert not repeats.all()


def test_replacement_draws_every_example_alike() -> None:
    counts = np.unique(batches(0, 500, "replacement"), return_counts=True)[1]
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, SIZES[0] - 1)


def test_a_batch_size_may_exceed_the_share_under_replacement() -> None:
    order, parts = packed()
    found = draw_many(parts, jnp.int32(1), positions(3), 16, "replacement")
    assert np.all(np.isin(order[np.asarray(found)], shares()[1]))


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_clients_with_as_many_examples_draw_other_positions(sampling: str) -> None:
    places = []
    for client in (0, 2):
        order = {example: i for i, example in enumerate(shares()[client].tolist())}
        places.append([order[e] for e in batches(client, 9, sampling).ravel().tolist()])
    assert places[0] != places[1]


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_a_draw_depends_on_client_and_count_only(sampling: str) -> None:
    together = batches(3, 12, sampling)
    # Alone, out of turn, not vmapped, and with other shares around it.
    others = (9, 6, 7)
    order, parts = pack([np.arange(n) + 100 for n in others] + [shares()[3]])
    for count in (7, 0, 11):
        alone = draw(jax.random.key(0), parts, jnp.int32(3), jnp.int32(count), BATCH, sampling)
        np.testing.assert_array_equal(order[np.asarray(alone)], together[count])


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_another_run_key_draws_other_batches(sampling: str) -> None:
    one, other = (
        draw(jax.random.key(seed), packed()[1], jnp.int32(3), jnp.int32(0), BATCH, sampling)
        for seed in (0, 1)
    )
    assert not np.array_equal(one, other)
