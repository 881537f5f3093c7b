"""Sparsification by value: as many entries as asked for, and the right ones."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.draws import LEVELS
from jfedsl.compression.message import Message, entries, kept_only, message_bytes
from jfedsl.compression.sparsification import ROWS, randtopk, splitfc, topk

DRAWS = 4000
SHAPE = (4, 5, 3)
SIZE = 60
# Multiples of 2^-6, so that their products with the number of entries are exact in float32.
KEEPS = [1 / 64, 4 / 64, 13 / 64, 32 / 64, 1.0]
by_rows = pytest.mark.parametrize("each", ROWS)


def data(shape: tuple[int, ...] = SHAPE, seed: int = 5) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


@cache
def top(each: str) -> Callable[[Array, Any, Any], Message]:
    """Top-k with traced fractions: fields `[fractions, ...]`."""

    def send(keep: Array, values: Array, kept: Array | None) -> Message:
        return topk(keep, each).send((), jax.random.key(0), kept_only(values, kept))[1]

    return jax.jit(jax.vmap(send, (0, None, None)))


@cache
def random_top(each: str) -> Callable[[Array, Array, Array, Any, Any], Message]:
    """RandTopk with different keys: fields `[keys, ...]`."""

    def send(key: Array, keep: Array, alpha: Array, values: Array, kept: Array | None) -> Message:
        return randtopk(keep, alpha, each).send((), key, kept_only(values, kept))[1]

    return jax.jit(jax.vmap(send, (0, None, None, None, None)))


def by_sorting(values: np.ndarray, candidates: np.ndarray, keep: float, each: str) -> np.ndarray:
    """Flags of the entries of greatest magnitude of each row, by a stable sort; NaN is greatest."""
    rows = len(values) if each == "example" else 1
    flags = np.zeros((rows, values.size // rows), bool)
    for row, x, mask in zip(
        flags, values.reshape(rows, -1), candidates.reshape(rows, -1), strict=True
    ):
        k = count(int(mask.sum()), keep)
        size = np.where(np.isnan(x), np.inf, np.where(np.isinf(x), 3.4e38, np.abs(x)))
        order = np.argsort(np.where(mask, -size, np.inf), kind="stable")
        row[order[:k]] = True
    return flags.reshape(values.shape)


def count(size: int, keep: float) -> int:
    return min(max(round(keep * size), 1), size)


@by_rows
@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.sampled_from([1, 2, 5, 1000]),
    density=st.sampled_from([None, 0.0, 0.3, 0.9]),
)
def test_top_k_equals_a_stable_sort_ties_included(
    each: str, seed: int, kinds: int, density: float | None
) -> None:
    random = np.random.default_rng(seed)
    values = random.choice(random.normal(size=kinds), SHAPE) * random.choice([-1, 1], SHAPE)
    values = values.astype(np.float32)
    candidates = np.ones(SHAPE, bool) if density is None else random.random(SHAPE) < density
    sent = top(each)(jnp.array(KEEPS), values, None if density is None else candidates)
    for n, keep in enumerate(KEEPS):
        expected = by_sorting(values, candidates, keep, each)
        np.testing.assert_array_equal(sent.masks[-1].chosen[n] & candidates, expected)
        # Unchanged, and the rest exactly 0.
        np.testing.assert_array_equal(sent.values[n], np.where(expected, values, 0))


@by_rows
def test_top_k_sends_the_nearest_number_of_entries_but_at_least_one(each: str) -> None:
    sent = top(each)(jnp.array(KEEPS), data(), None)
    rows = 4 if each == "example" else 1
    for n, keep in enumerate(KEEPS):
        chosen = np.asarray(sent.masks[0].chosen[n]).reshape(rows, -1)
        np.testing.assert_array_equal(chosen.sum(1), count(SIZE // rows, keep))
        np.testing.assert_array_equal(sent.masks[0].counts[n], chosen.sum(1))
    assert sent.masks[0].rows == rows


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    values = jnp.where(data() > 0, 2.0, -2.0)
    sent = top("tensor")(jnp.array([0.25]), values, None)
    np.testing.assert_array_equal(sent.masks[0].chosen[0].ravel(), np.arange(SIZE) < SIZE / 4)


@by_rows
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_top_k_sends_nan_and_infinity(each: str, bad: float) -> None:
    values = np.array(data())
    values[:, 4, 2] = bad
    sent = np.asarray(top(each)(jnp.array([8 / 64, 0.5]), values, None).values)
    np.testing.assert_array_equal(sent[:, :, 4, 2], np.full((2, 4), bad, np.float32))
    assert not np.isnan(np.delete(sent.reshape(2, -1), np.arange(14, SIZE, 15), axis=1)).any()


def test_nan_is_sent_before_infinity() -> None:
    values = np.array(data())
    values[0, 0, 0], values[3, 1, 2] = np.inf, np.nan
    sent = top("tensor")(jnp.array([1 / 64]), values, None)
    assert np.flatnonzero(sent.masks[0].chosen[0]).tolist() == [3 * 15 + 1 * 3 + 2]


@by_rows
def test_zeros_stay_zeros_even_where_they_are_sent(each: str) -> None:
    values = jnp.where(data() > 0.5, data(), 0.0)
    sent = top(each)(jnp.array(KEEPS), values, None)
    assert not np.any(np.asarray(sent.values)[:, np.asarray(values) == 0])
    assert not np.any(top(each)(jnp.array(KEEPS), jnp.zeros(SHAPE), None).values)


def test_denormal_entries_are_ordered_by_their_magnitude_and_sent_or_flushed() -> None:
    values = np.zeros(SHAPE, np.float32)
    values.reshape(-1)[[7, 11]] = 1e-40, -2e-40
    sent = top("tensor")(jnp.array([1 / 64]), values, None)
    assert np.flatnonzero(sent.masks[0].chosen[0]).tolist() == [11]
    assert np.all(np.abs(sent.values[0] - values) <= np.finfo(np.float32).tiny)


@by_rows
def test_without_kept_entries_nothing_is_sent(each: str) -> None:
    nothing = np.zeros(SHAPE, bool)
    keys = jax.random.split(jax.random.key(0), 3)
    for sent in (
        top(each)(jnp.array([0.5]), data(), nothing),
        random_top(each)(keys, jnp.float32(0.5), jnp.float32(0.1), data(), nothing),
    ):
        assert not np.any(sent.values)
        assert not np.any(sent.masks[-1].counts)


@by_rows
def test_traced_fractions_equal_static_ones(each: str) -> None:
    @jax.jit
    def alone(values: Array) -> list[Array]:
        def send(compressor: Any) -> Array:
            return compressor.send((), jax.random.split(jax.random.key(1), 1)[0], Message(values))[
                1
            ]

        compressors = [
            compressor
            for keep in KEEPS
            for compressor in (topk(keep, each), randtopk(keep, 0.2, each))
        ]
        return [send(compressor).values for compressor in compressors]

    static = alone(data())
    for n, keep in enumerate(KEEPS):
        np.testing.assert_array_equal(
            top(each)(jnp.array(KEEPS), data(), None).values[n], static[2 * n]
        )
        keys = jax.random.split(jax.random.key(1), 1)
        drawn = random_top(each)(keys, jnp.float32(keep), jnp.float32(0.2), data(), None)
        np.testing.assert_array_equal(drawn.values[0], static[2 * n + 1])


def test_all_fractions_share_one_compilation() -> None:
    traces = []

    @jax.jit
    def send_one(keep: Array, alpha: Array, rate: Array) -> list[Array]:
        traces.append(keep)
        compressors = (topk(keep), randtopk(keep, alpha), splitfc(rate))
        return [
            compressor.send((), jax.random.key(0), Message(data()))[1].values
            for compressor in compressors
        ]

    for x in (0.1, 0.5, 0.9):
        send_one(jnp.float32(x), jnp.float32(x), jnp.float32(x))
    assert len(traces) == 1


@by_rows
@pytest.mark.parametrize("masked", [False, True])
def test_randtopk_sends_as_many_entries_as_top_k_and_not_always_the_same(
    each: str, masked: bool
) -> None:
    candidates = np.asarray(data(SHAPE, 6)) > -0.5 if masked else np.ones(SHAPE, bool)
    rows = 4 if each == "example" else 1
    mask = candidates if masked else None
    for keep in KEEPS:
        keys = jax.random.split(jax.random.key(2), 100)
        sent = random_top(each)(keys, jnp.float32(keep), jnp.float32(0.3), data(), mask)
        chosen = np.asarray(sent.masks[-1].chosen) & candidates
        counts = [count(int(n), keep) for n in candidates.reshape(rows, -1).sum(1)]
        np.testing.assert_array_equal(chosen.reshape(100, rows, -1).sum(2), [counts] * 100)
        np.testing.assert_array_equal(sent.values, np.where(chosen, data(), 0))
        assert (len(np.unique(chosen, axis=0)) > 1) == (keep < 1)
        # With a fraction of 1 all candidates are sent.
        assert keep < 1 or np.all(chosen == candidates)


@by_rows
@pytest.mark.parametrize("masked", [False, True])
def test_randtopk_with_alpha_0_is_top_k(each: str, masked: bool) -> None:
    mask = np.asarray(data(SHAPE, 6)) > -0.5 if masked else None
    expected = top(each)(jnp.array([0.25]), data(), mask).values[0]
    keys = jax.random.split(jax.random.key(3), 50)
    sent = random_top(each)(keys, jnp.float32(0.25), jnp.float32(0.0), data(), mask)
    np.testing.assert_array_equal(sent.values, np.stack([expected] * 50))


def others_drawn(size: int, k: int, alpha: float, trials: int) -> np.ndarray:
    """The number of k draws without replacement that take an entry outside of the top k."""
    random, others = np.random.default_rng(0), np.zeros(trials, int)
    for draw in range(k):
        tops = k - (draw - others)
        of_tops = tops * (1 - alpha) / k
        of_others = (size - k - others) * alpha / (size - k)
        others += random.random(trials) < of_others / (of_tops + of_others)
    return others


@pytest.mark.parametrize(("keep", "alpha"), [(0.25, 0.1), (0.25, 0.5), (0.5, 0.9)])
def test_randtopk_samples_one_after_the_other_without_replacement(
    keep: float, alpha: float
) -> None:
    keys = jax.random.split(jax.random.key(4), DRAWS)
    sent = random_top("tensor")(keys, jnp.float32(keep), jnp.float32(alpha), data(), None)
    chosen = np.asarray(sent.masks[0].chosen).reshape(DRAWS, SIZE)
    k = count(SIZE, keep)
    greatest = by_sorting(np.asarray(data()), np.ones(SHAPE, bool), keep, "tensor").ravel()
    others = chosen[:, ~greatest].sum(1)
    expected = others_drawn(SIZE, k, alpha, 50 * DRAWS)
    assert abs(others.mean() - expected.mean()) <= 5 * expected.std() / np.sqrt(DRAWS) * 1.01
    for number in range(k + 1):  # not only their mean
        p = np.mean(expected == number)
        error = np.sqrt(p * (1 - p) / DRAWS) + 1 / DRAWS
        assert abs(np.mean(others == number) - p) <= 5 * error
    # All of the top k are equally likely, and so are all of the others.
    top_share, other_share = 1 - others.mean() / k, others.mean() / (SIZE - k)
    for group, share in ((greatest, top_share), (~greatest, other_share)):
        error = np.sqrt(share * (1 - share) / DRAWS)
        assert np.all(np.abs(chosen[:, group].mean(0) - share) <= 5 * error)


@cache
def fc() -> Callable[[Array, Array, Array, Any], Message]:
    """SplitFC with traced rates and different keys: fields `[rates, keys, ...]`."""

    def send(rate: Array, key: Array, values: Array, kept: Array | None) -> Message:
        return splitfc(rate).send((), key, kept_only(values, kept))[1]

    of_keys = jax.vmap(send, (None, 0, None, None))
    return jax.jit(jax.vmap(of_keys, (0, None, None, None)))


RATES = [0.1, 0.5, 0.9]


def features() -> Array:
    """`[8, 5, 4]`: channels of different scales, features of different spread."""
    scales = np.linspace(0.1, 2.0, 5)[:, None] * np.array([1.0, 100.0, 1e-3, 5.0])
    return data((8, 5, 4)) * jnp.asarray(scales[None], jnp.float32) + 3.0


def probabilities(values: np.ndarray, rate: float, candidates: np.ndarray) -> np.ndarray:
    """The paper's q of the features `[...]` of `[B, ...]` with several positions, in float64."""
    x = values.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    spread = ((x - x.min(axes)) / np.ptp(x, axis=axes)).std(axis=0)[candidates]
    q = np.zeros(candidates.shape)
    q[candidates] = shares(spread, rate)
    return q


def shares(spread: np.ndarray, rate: float) -> np.ndarray:
    """The paper's q from the standard deviations of features, `[N]`."""
    number, expected = len(spread), (1 - rate) * len(spread)
    c = max(0.0, (expected * spread.max() - spread.sum()) / (number - expected))
    q = expected * (spread + c) / (spread + c).sum()
    assert q.max() <= 1 + 1e-12
    return np.minimum(q, 1)


def observed_shares(values: Any, rate: float) -> np.ndarray:
    """The q of the features `[...]` of `[B, ...]`, from the scale of what arrives in many draws."""
    keys = jax.random.split(jax.random.key(5), DRAWS)
    sent = fc()(jnp.array([rate]), keys, jnp.asarray(values), None)
    received = np.asarray(sent.values[0], np.float64)
    greatest = np.abs(received).max(axis=(0, 1))
    assert np.all(greatest > 0), "a feature was never kept"
    return np.abs(np.asarray(values, np.float64)).max(axis=0) / greatest


@pytest.mark.parametrize("masked", [False, True])
def test_splitfc_keeps_features_with_the_papers_probabilities_and_is_unbiased(
    masked: bool,
) -> None:
    values = features()
    candidates = np.asarray(data((5, 4), 6)) > -0.5 if masked else np.ones((5, 4), bool)
    mask = np.broadcast_to(candidates, values.shape) if masked else None
    keys = jax.random.split(jax.random.key(5), DRAWS)
    sent = fc()(jnp.array(RATES), keys, values, mask)
    expected = np.where(candidates, values, 0).astype(np.float64)
    assert {offset_is_needed(rate) for rate in RATES} == {True, False}
    for n, rate in enumerate(RATES):
        message = jax.tree.map(lambda leaf, n=n: leaf[n], sent)
        # Features that are not kept are 0 in the scaled channel too.
        q = probabilities(expected if masked else np.asarray(values), rate, candidates)
        np.testing.assert_allclose(q.sum(), (1 - rate) * candidates.sum())
        # Shares are rounded to a multiple of 2^-16, after rounding to float32.
        flags = np.asarray(message.masks[-1].chosen) & candidates
        error = 5 * np.sqrt(q * (1 - q) / DRAWS)
        assert np.all(np.abs(flags[:, 0].mean(axis=0) - q) <= error + 2 / LEVELS)
        number = flags.reshape(DRAWS, -1).sum(1)
        error = np.sqrt(np.sum(q * (1 - q)) / DRAWS)
        assert abs(number.mean() - (1 - rate) * candidates.sum()) <= 5 * error + 1e-3

        received = np.asarray(message.values, np.float64)
        kept = received != 0
        np.testing.assert_array_equal(kept, np.broadcast_to(flags, kept.shape))
        scale = np.broadcast_to(1 / np.where(candidates, q, 1), kept.shape)
        np.testing.assert_allclose(
            received[kept], (expected * scale)[kept], rtol=3 / LEVELS / q[candidates].min()
        )
        error = np.abs(expected) * np.sqrt(
            (np.where(candidates, 1 / np.where(candidates, q, 1), 1) - 1) / DRAWS
        )
        assert np.all(np.abs(received.mean(0) - expected) <= 5 * error + 1e-5 * np.abs(expected))


def offset_is_needed(rate: float) -> bool:
    """Whether the greatest q would exceed 1 without c."""
    x = np.asarray(features(), np.float64)
    spread = ((x - x.min((0, 1))) / np.ptp(x, axis=(0, 1))).std(axis=0)
    return bool((1 - rate) * spread.size * spread.max() > spread.sum())


def dense(seed: int) -> Array:
    """`[16, 10]`: units of a dense layer, the last varying 30 times as much as the first."""
    return jnp.asarray(np.asarray(data((16, 10), seed)) * np.linspace(0.1, 3.0, 10, dtype="f"))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_splitfc_of_a_dense_layer_scales_the_whole_vector(seed: int, rate: float) -> None:
    x = np.asarray(dense(seed), np.float64)
    q = shares(((x - x.min()) / (x.max() - x.min())).std(axis=0), rate)
    np.testing.assert_allclose(observed_shares(dense(seed), rate), q, atol=2 / LEVELS)
    if rate == 0.5:
        assert q.min() < 0.1 and q.max() > 0.7


def test_splitfc_scales_a_channel_over_all_positions() -> None:
    # As every channel is scaled to [0, 1], one of greater values counts no more than the others.
    units = np.float32([1.0, 8.0, 0.25])
    for shape in ((8, 5, 3), (8, 2, 2, 3)):  # tokens, images
        values = np.asarray(data(shape))
        q = probabilities(values, 0.5, np.ones(shape[1:], bool))
        np.testing.assert_allclose(observed_shares(values, 0.5), q, atol=2 / LEVELS)
        np.testing.assert_allclose(observed_shares(values * units, 0.5), q, atol=2 / LEVELS)
    # With one position the whole vector is the channel, whatever the number of axes.
    values = np.asarray(data((8, 3)))
    q = observed_shares(values * units, 0.5)
    assert np.abs(q - observed_shares(values, 0.5)).max() > 0.3
    for shape in ((8, 1, 3), (8, 1, 1, 3)):
        reshaped = observed_shares((values * units).reshape(shape), 0.5)
        np.testing.assert_array_equal(reshaped.reshape(3), q)


def test_splitfc_keeps_features_of_greater_deviation_more_often() -> None:
    values = data((16, 1, 1), 7) * jnp.linspace(0.2, 1.0, 5)[None, :, None] * jnp.ones((1, 1, 4))
    sent = fc()(jnp.array([0.5]), jax.random.split(jax.random.key(6), DRAWS), values, None)
    share = np.asarray(sent.masks[0].chosen)[0, :, 0].mean(axis=(0, 2))
    assert np.all(np.diff(share) > 0)


def test_if_no_feature_varies_all_are_equally_likely() -> None:
    values = jnp.broadcast_to(data((5, 4)), (8, 5, 4))
    sent = fc()(jnp.array(RATES), jax.random.split(jax.random.key(7), DRAWS), values, None)
    for n, rate in enumerate(RATES):
        share = np.asarray(sent.masks[0].chosen[n]).mean(axis=(0, 1))
        assert np.all(np.abs(share - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / DRAWS))
        received = np.asarray(sent.values[n])
        scale = received / np.broadcast_to(values, received.shape)
        np.testing.assert_allclose(scale[received != 0], 1 / (1 - rate), rtol=1e-4)


def test_splitfc_at_rate_0_sends_everything_as_it_is() -> None:
    for values in (features(), jnp.broadcast_to(data((5, 4)), (8, 5, 4))):
        keys = jax.random.split(jax.random.key(8), 100)
        sent = fc()(jnp.array([0.0]), keys, values, None).values[0]
        np.testing.assert_array_equal(sent, np.stack([values] * 100))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_splitfc_always_sends_a_feature_with_nan_or_infinity(bad: float) -> None:
    cases = ((features(), (2, 3, 1), (0, 1)), (dense(0), (2, 3), None))
    for values, position, channel in cases:
        keys = jax.random.split(jax.random.key(9), DRAWS)
        sent = fc()(jnp.array([0.5]), keys, values.at[position].set(bad), None)
        assert np.count_nonzero(~np.isfinite(sent.values[0])) == DRAWS
        # The probabilities of the others are as if that feature did not vary.
        x = np.asarray(values, np.float64)
        x[position] = np.nan
        low, high = np.nanmin(x, axis=channel), np.nanmax(x, axis=channel)
        q = shares(np.nan_to_num(((x - low) / (high - low)).std(0).ravel()), 0.5)
        observed = np.asarray(sent.masks[0].chosen[0]).reshape(DRAWS, -1).mean(0)
        q[np.isnan(x.std(0).ravel())] = 1
        assert np.all(np.abs(observed - q) <= 5 * np.sqrt(q * (1 - q) / DRAWS) + 2 / LEVELS)


def test_splitfc_without_kept_entries_sends_nothing() -> None:
    nothing = np.zeros((8, 5, 4), bool)
    sent = fc()(jnp.array(RATES), jax.random.split(jax.random.key(0), 3), features(), nothing)
    assert not np.any(sent.values)


def test_traced_splitfc_rates_equal_static_ones() -> None:
    @jax.jit
    def alone(values: Array) -> list[Array]:
        def send(rate: float) -> Array:
            key = jax.random.split(jax.random.key(1), 1)[0]
            return splitfc(rate).send((), key, Message(values))[1].values

        return [send(rate) for rate in RATES]

    together = fc()(jnp.array(RATES), jax.random.split(jax.random.key(1), 1), features(), None)
    for n, values in enumerate(alone(features())):
        np.testing.assert_array_equal(together.values[n, 0] != 0, values != 0)
        np.testing.assert_allclose(together.values[n, 0], values, rtol=2 / LEVELS / 0.01)


@pytest.mark.parametrize("kind", ["topk", "randtopk", "splitfc"])
def test_the_gradient_has_the_mask_and_the_scale_of_the_values(kind: str) -> None:
    compressor = {"topk": topk(0.3), "randtopk": randtopk(0.3, 0.3), "splitfc": splitfc(0.5)}[kind]
    weights = data(SHAPE, 8)

    def loss(values: Array) -> tuple[Array, Message]:
        sent = compressor.send((), jax.random.key(0), Message(values))[1]
        return jnp.sum(weights * sent.values), sent

    slope, sent = jax.jit(jax.grad(loss, has_aux=True))(data())
    kept = np.asarray(jnp.broadcast_to(sent.masks[0].chosen, SHAPE))
    assert 0 < kept.sum() < SIZE
    scale = np.where(kept, np.asarray(sent.values) / np.asarray(data()), 0)
    assert np.any(scale > 1) == (kind == "splitfc")
    np.testing.assert_allclose(slope, weights * scale, rtol=1e-5)


@by_rows
def test_the_cost_is_that_of_entries_and_their_positions(each: str) -> None:
    sent = jax.jit(lambda x: topk(1 / 4, each).send((), jax.random.key(0), Message(x))[1])(data())
    number = int(entries(sent))
    width = (14 if each == "example" else 59).bit_length()
    bits = 32 * number + min(SIZE, number * width)
    assert int(message_bytes([sent])) == -(-bits // 8)


@pytest.mark.parametrize("compressor", [topk(0.3, "example"), randtopk(0.3), splitfc(0.4)])
def test_mapped_over_clients_equals_a_python_loop(compressor: Any) -> None:
    values = data((3, *SHAPE))
    send_one = jax.jit(partial(lambda key, x: compressor.send((), key, Message(x))[1].values))
    together = jax.vmap(send_one)(jax.random.split(jax.random.key(0), 3), values)
    for n, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        np.testing.assert_array_equal(together[n], send_one(key, values[n]))
