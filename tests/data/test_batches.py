"""Batches: orders are uniform permutations; no example comes twice in an epoch."""

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
# The probability with which each test of uniformity fails by chance.
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
    # Positions past the end of a shorter range repeat its last position.
    clipped = jnp.minimum(positions(largest)[None], sizes[:, None] - 1)
    over_keys = jax.vmap(jax.vmap(shuffled, (0, None, None)), (None, 0, 0))
    images = np.asarray(jax.jit(over_keys)(keys(count), clipped, sizes))
    for size in range(1, largest + 1):
        ascending = np.sort(images[size - 1, :, :size], axis=1)
        np.testing.assert_array_equal(ascending, np.tile(np.arange(size), (count, 1)))


@given(size=st.integers(4096, 2**30), start=st.integers(0, 2**30), seed=st.integers(0, 2**32 - 1))
@example(size=4096, start=0, seed=0)
@example(size=4097, start=0, seed=1)
@example(size=50_000, start=49_999, seed=2)
@example(size=2**30 - 1, start=2**30 - 2, seed=3)
@example(size=2**30, start=2**30 - 2, seed=4)
def test_distinct_positions_of_a_large_range_have_distinct_images_within_it(
    size: int, start: int, seed: int
) -> None:
    distinct = ((np.arange(4096, dtype=np.int64) + start) % size).astype(np.int32)
    images = np.asarray(shuffle(jax.random.key(seed), jnp.asarray(distinct), jnp.int32(size)))
    assert images.dtype == np.int32
    assert images.min() >= 0
    assert images.max() < size
    assert len(np.unique(images)) == len(images)


@pytest.mark.parametrize("size", [65_536, 70_001])
def test_is_a_permutation_of_a_large_range(size: int) -> None:
    images = shuffle(jax.random.key(0), positions(size), jnp.int32(size))
    np.testing.assert_array_equal(np.sort(images), np.arange(size))


def test_orders_under_different_keys_differ() -> None:
    distinct = np.unique(orders(30, 200), axis=0)
    assert len(distinct) == 200


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
def test_the_image_of_every_position_is_uniform(size: int) -> None:
    count = 4000
    # Each of the `size` tests has `size - 1` degrees of freedom, as counts sum to `count`.
    critical = stats.chi2.isf(FALSE_ALARM, size - 1)
    for images in orders(size, count).T:
        counts = np.bincount(images, minlength=size)
        assert stats.chisquare(counts).statistic < critical


@pytest.mark.parametrize("size", [3, 4, 5])
def test_orders_of_a_few_positions_are_uniform(size: int) -> None:
    counts = np.unique(orders(size, 4000), axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, len(counts) - 1)


def test_distances_between_images_of_neighbours_are_uniform() -> None:
    size = 1_000_000
    images = shuffle(jax.random.key(1), positions(4000), jnp.int32(size))
    distances = np.diff(np.asarray(images, np.int64)) % size
    counts = np.histogram(distances, bins=10, range=(0, size))[0]
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, 9)


SIZES = (13, 5, 13, 40)
BATCH = 4


def shares(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Shares:
    """Shares in random order, so that no position equals its example by chance."""
    order = np.random.default_rng(seed).permutation(sum(sizes))
    return np.split(order, np.cumsum(sizes)[:-1])


def packed() -> tuple[np.ndarray, Partition]:
    """Shares packed for two devices, not in the order of clients."""
    return pack(shares(), np.array([1, 0, 0, 1]), 2)


def draw_from(
    partition: Partition, client: Array, drawn: Array, batch_size: int, sampling: str
) -> Array:
    """`draw` under the run key 0, over many counts `drawn[D]`: `[D, B]`."""
    return jax.vmap(
        lambda count: draw(jax.random.key(0), partition, client, count, batch_size, sampling)
    )(drawn)


draw_many = jax.jit(draw_from, static_argnums=(3, 4))


def batches(client: int, count: int, sampling: str) -> np.ndarray:
    """The examples of a client's first batches, `[count, B]`."""
    order, partition = packed()
    drawn = draw_many(partition, jnp.int32(client), positions(count), BATCH, sampling)
    assert drawn.dtype == jnp.int32
    return order[np.asarray(drawn)]


def epochs(client: int, count: int) -> np.ndarray:
    """The examples of each epoch in order, `[count, batches in an epoch * B]`."""
    batches_an_epoch = SIZES[client] // BATCH
    examples = batches(client, count * batches_an_epoch, "epoch")
    return examples.reshape(count, batches_an_epoch * BATCH)


@pytest.mark.parametrize("client", range(len(SIZES)))
@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_a_client_draws_all_of_its_examples_and_no_others(client: int, sampling: str) -> None:
    examples = batches(client, 120, sampling)
    np.testing.assert_array_equal(np.unique(examples), np.sort(shares()[client]))


@pytest.mark.parametrize("client", range(len(SIZES)))
def test_within_an_epoch_no_example_comes_twice(client: int) -> None:
    ascending = np.sort(epochs(client, 12), axis=1)
    assert np.all(np.diff(ascending, axis=1) > 0)


@pytest.mark.parametrize("client", [0, 3])
def test_each_epoch_has_another_order(client: int) -> None:
    assert len(np.unique(epochs(client, 12), axis=0)) == 12


def test_the_examples_left_out_differ_between_epochs() -> None:
    left_out = [np.setdiff1d(shares()[0], epoch) for epoch in epochs(0, 40)]
    assert all(len(rest) == SIZES[0] % BATCH for rest in left_out)
    # One of 13 is left out 40 times. That they are 6 or fewer has probability below 1e-9.
    assert len(np.unique(left_out)) > 6


def test_replacement_repeats_examples_within_a_batch() -> None:
    ascending = np.sort(batches(1, 40, "replacement"), axis=1)
    # A batch of 4 from 5 has no repeat with probability 0.19: of 40, some do and some do not.
    has_repeat = np.any(np.diff(ascending, axis=1) == 0, axis=1)
    assert has_repeat.any()
    assert not has_repeat.all()


def test_replacement_draws_uniformly() -> None:
    counts = np.unique(batches(0, 500, "replacement"), return_counts=True)[1]
    assert stats.chisquare(counts).statistic < stats.chi2.isf(FALSE_ALARM, SIZES[0] - 1)


def test_a_batch_size_may_exceed_the_share_under_replacement() -> None:
    order, partition = packed()
    drawn = draw_many(partition, jnp.int32(1), positions(3), 16, "replacement")
    assert np.all(np.isin(order[np.asarray(drawn)], shares()[1]))


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_clients_of_the_same_size_draw_different_positions(sampling: str) -> None:
    drawn = []
    for client in (0, 2):
        position = {example: i for i, example in enumerate(shares()[client].tolist())}
        drawn.append([position[e] for e in batches(client, 9, sampling).ravel().tolist()])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_a_draw_depends_on_client_and_count_only(sampling: str) -> None:
    together = batches(3, 12, sampling)
    # One by one, in another order, and with other clients' examples around.
    other_sizes = (9, 6, 7)
    order, partition = pack([np.arange(n) + 100 for n in other_sizes] + [shares()[3]])
    for count in (7, 0, 11):
        alone = draw(jax.random.key(0), partition, jnp.int32(3), jnp.int32(count), BATCH, sampling)
        np.testing.assert_array_equal(order[np.asarray(alone)], together[count])


@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_another_run_key_draws_other_batches(sampling: str) -> None:
    first, second = (
        draw(jax.random.key(seed), packed()[1], jnp.int32(3), jnp.int32(0), BATCH, sampling)
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)
