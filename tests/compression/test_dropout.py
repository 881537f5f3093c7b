"""Dropout: unbiased, exact zeros, an exact mask, and the same mask for the gradient."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.dropout import UNITS, dropout
from jfedsl.compression.message import Mask, Message, entries, kept_only, mask_bits, message_bytes

DRAWS = 4000
RATES = [0.1, 0.5, 0.9]
SHAPE = (3, 4, 5)
# Flags of the units of a tensor of this shape.
FLAGS = {"entry": SHAPE, "feature": (1, 4, 5), "channel": (1, 1, 5)}
MODES = [(unit, exact) for unit in UNITS for exact in (False, True)]
every_mode = pytest.mark.parametrize(("unit", "exact"), MODES)


def data(shape: tuple[int, ...] = (6, 5)) -> Array:
    return jax.random.normal(jax.random.key(9), shape)


def send(rate: float, seed: int, message: Message) -> Message:
    state, sent = dropout(rate).send((), jax.random.key(seed), message)
    assert state == ()
    return sent


def share(rate: float) -> float:
    """The probability to be sent, a multiple of 2^-16."""
    return max(1, round((1 - rate) * 2**16)) / 2**16


@cache
def for_all(
    unit: str = "entry", exact: bool = False
) -> Callable[[Array, Array, Array, Array | None], Message]:
    """Sends with every rate and every key, both traced: fields `[rates, keys, ...]`."""

    def send_one(rate: Array, key: Array, values: Array, kept: Array | None) -> Message:
        return dropout(rate, unit, exact).send((), key, kept_only(values, kept))[1]

    of_keys = jax.vmap(send_one, (None, 0, None, None))
    return jax.jit(jax.vmap(of_keys, (0, None, None, None)))


def many(rate: float, values: Array, count: int = DRAWS) -> Message:
    """The same values sent with different keys: fields `[count, ...]`."""
    keys = jax.random.split(jax.random.key(0), count)
    sent = for_all()(jnp.array([rate]), keys, values, None)
    return jax.tree.map(lambda leaf: leaf[0], sent)


def chosen(sent: Message) -> np.ndarray:
    """Flags of units, of the last mask."""
    return np.asarray(sent.masks[-1].chosen)


def kept_of(sent: Message) -> np.ndarray:
    """Which entries are sent, of many messages `[..., shape]`."""
    return np.broadcast_to(chosen(sent), sent.values.shape)


@pytest.mark.parametrize("rate", RATES)
def test_is_unbiased(rate: float) -> None:
    values = data()
    mean = np.mean(many(rate, values).values, axis=0)
    # An entry x is x / (1 - rate) or 0: its variance is x^2 * rate / (1 - rate).
    error = np.abs(values) * np.sqrt(rate / (1 - rate) / DRAWS)
    assert np.all(np.abs(mean - values) <= 5 * error)


@pytest.mark.parametrize("rate", RATES)
def test_keeps_each_entry_with_probability_one_minus_rate(rate: float) -> None:
    kept = kept_of(many(rate, data()))
    deviation = np.sqrt(rate * (1 - rate))
    shares = kept.mean(axis=0)
    assert np.all(np.abs(shares - (1 - rate)) <= 5 * deviation / np.sqrt(DRAWS))
    assert abs(kept.mean() - (1 - rate)) <= 5 * deviation / np.sqrt(kept.size)


def test_entries_are_dropped_independently() -> None:
    kept = kept_of(many(0.5, jnp.ones(2)))
    both = np.mean(kept[:, 0] & kept[:, 1])
    assert abs(both - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / DRAWS)


@given(rate=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_kept_entries_are_scaled_and_the_others_exactly_zero(
    rate: float, seed: int, masked: bool
) -> None:
    values = data()
    before = values > 0 if masked else None
    sent = send(rate, seed, kept_only(values, before))
    kept, received = np.asarray(sent.kept), np.asarray(sent.values)
    assert received.shape == kept.shape == values.shape
    expected = np.where(kept, np.asarray(values) / share(rate), 0)
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    if masked:
        assert not np.any(kept & ~np.asarray(before))
    # Dropout does not code entries, and both ends draw the mask.
    assert sent.coding is None
    assert int(entries(sent)) == kept.sum()
    assert int(message_bytes([sent])) == 4 * kept.sum()
    assert int(mask_bits(sent)) == 0


def test_the_mask_of_a_message_is_combined_with_the_mask_drawn() -> None:
    values = data()
    free = send(0.4, 3, Message(values)).kept
    masked = send(0.4, 3, Message(values, (Mask(values > 0),))).kept
    np.testing.assert_array_equal(masked, free & (values > 0))


@pytest.mark.parametrize(("rate", "levels"), [(0.2, 52429), (0.5, 32768), (1 - 1e-6, 1)])
def test_the_probability_is_a_multiple_of_2_to_the_minus_16(rate: float, levels: int) -> None:
    sent = send(rate, 0, Message(jnp.ones(2**20)))
    assert set(np.unique(sent.values)) == {np.float32(0), np.float32(2**16 / levels)}


def test_rate_zero_sends_everything_as_it_is() -> None:
    sent = send(0.0, 0, Message(data((100, 100))))
    np.testing.assert_array_equal(sent.values, data((100, 100)))
    assert np.all(sent.kept)


@pytest.mark.parametrize("rate", RATES)
def test_the_gradient_has_the_mask_and_the_scale_of_the_values(rate: float) -> None:
    values, weights = data(), jax.random.normal(jax.random.key(1), (6, 5))

    def loss(values: Array) -> Array:
        return jnp.sum(weights * send(rate, 2, Message(values)).values)

    kept = send(rate, 2, Message(values)).kept
    expected = np.where(kept, weights / share(rate), 0)
    np.testing.assert_allclose(jax.grad(loss)(values), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_dropped_nan_or_infinity_reaches_neither_values_nor_gradient(bad: float) -> None:
    kept = np.asarray(send(0.5, 0, Message(data())).kept)
    values = jnp.where(kept, data(), bad)
    loss, gradient = jax.value_and_grad(lambda v: jnp.sum(send(0.5, 0, Message(v)).values))(values)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(gradient, np.where(kept, 2.0, 0.0))


def test_a_kept_nan_stays() -> None:
    kept = np.asarray(send(0.5, 0, Message(data())).kept)
    sent = send(0.5, 0, Message(jnp.full((6, 5), jnp.nan)))
    np.testing.assert_array_equal(np.isnan(sent.values), kept)


def test_the_mask_is_determined_by_the_key() -> None:
    first, again, other = (send(0.5, seed, Message(data())).kept for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_mask_does_not_depend_on_the_values() -> None:
    # The receiver draws it without them.
    mask = send(0.5, 0, Message(jnp.zeros((6, 5)))).kept
    np.testing.assert_array_equal(mask, send(0.5, 0, Message(data())).kept)


def test_no_two_clients_share_a_mask() -> None:
    kept = kept_of(many(0.5, jnp.ones(64), 200))
    assert len(np.unique(kept, axis=0)) == 200


def test_mapped_over_clients_equals_a_python_loop() -> None:
    values = data((3, 8))
    keys = jax.random.split(jax.random.key(0), 3)

    def send_one(key: Array, values: Array) -> Array:
        return dropout(0.3).send((), key, Message(values))[1].values

    together, alone = jax.jit(jax.vmap(send_one))(keys, values), jax.jit(send_one)
    for n, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        np.testing.assert_array_equal(together[n], alone(key, values[n]))


@every_mode
def test_units_are_kept_or_dropped_as_a_whole(unit: str, exact: bool) -> None:
    keys = jax.random.split(jax.random.key(0), 50)
    sent = for_all(unit, exact)(jnp.array([0.4]), keys, jnp.ones(SHAPE), None)
    flags = np.asarray(sent.values) != 0
    assert chosen(sent).shape == (1, 50, *FLAGS[unit])
    np.testing.assert_array_equal(flags, kept_of(sent))
    assert len(np.unique(flags.reshape(50, -1), axis=0)) > 1


@every_mode
def test_units_are_unbiased_and_as_likely_as_each_other(unit: str, exact: bool) -> None:
    values, rates = data(SHAPE), jnp.array([0.1, 0.4, 0.9])
    keys = jax.random.split(jax.random.key(1), DRAWS)
    sent = for_all(unit, exact)(rates, keys, values, None)
    units = int(np.prod(FLAGS[unit]))
    for rate, received, flags in zip(
        np.asarray(rates), np.asarray(sent.values), chosen(sent), strict=True
    ):
        p = max(1, round(units * (1 - float(rate)))) / units if exact else share(float(rate))
        # An entry x is x / p or 0.
        error = np.sqrt((1 - p) / p / DRAWS)
        bias = np.abs(received.mean(axis=0, dtype=np.float64) - values)
        assert np.all(bias <= 5 * error * np.abs(values) + 1e-6)
        assert np.all(np.abs(flags.mean(axis=0) - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS))
        scale = received[received != 0] / np.broadcast_to(values, received.shape)[received != 0]
        np.testing.assert_allclose(scale, 1 / p, rtol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_exact_dropout_keeps_the_nearest_number_of_units_but_one_at_least(unit: str) -> None:
    # Away from halves, which float32 may round to either side.
    rates = [0.0, 0.12, 0.33, 0.52, 0.71, 0.97, 0.9999]
    keys = jax.random.split(jax.random.key(2), 40)
    sent = for_all(unit, True)(jnp.array(rates), keys, jnp.ones(SHAPE), None)
    units = int(np.prod(FLAGS[unit]))
    counts = chosen(sent).reshape(len(rates), 40, units).sum(axis=2)
    expected = [max(1, round((1 - rate) * units)) for rate in rates]
    np.testing.assert_array_equal(counts, np.repeat(np.array(expected)[:, None], 40, axis=1))


@pytest.mark.parametrize("unit", UNITS)
def test_exact_dropout_counts_the_units_that_earlier_masks_keep(unit: str) -> None:
    flags = np.asarray(data(FLAGS[unit])) > -0.3
    kept = np.broadcast_to(flags & (np.asarray(data(SHAPE)) > -1.5), SHAPE)
    spanned = tuple(i for i in range(3) if FLAGS[unit][i] == 1)
    number = int(kept.any(axis=spanned).sum()) if spanned else int(kept.sum())
    keys = jax.random.split(jax.random.key(3), DRAWS)
    sent = for_all(unit, True)(jnp.array([0.4]), keys, data(SHAPE), jnp.asarray(kept))
    count = round(0.6 * number)
    np.testing.assert_array_equal(chosen(sent).reshape(DRAWS, -1).sum(axis=1), count)
    received = np.asarray(sent.values[0], np.float64)
    assert not received[:, ~kept].any()
    expected = np.where(kept, data(SHAPE), 0.0)
    error = np.abs(expected) * np.sqrt((number / count - 1) / DRAWS)
    assert np.all(np.abs(received.mean(axis=0) - expected) <= 5 * error + 1e-6)


def test_exact_dropout_draws_all_sets_of_units_equally_often() -> None:
    sent = for_all("channel", True)(
        jnp.array([0.6]), jax.random.split(jax.random.key(4), DRAWS), jnp.ones(SHAPE), None
    )
    sets, counts = np.unique(chosen(sent).reshape(DRAWS, 5), axis=0, return_counts=True)
    assert len(sets) == 10  # two of five
    assert np.all(np.abs(counts - DRAWS / 10) <= 5 * np.sqrt(DRAWS * 0.1 * 0.9))


@every_mode
def test_a_message_without_kept_entries_stays_empty(unit: str, exact: bool) -> None:
    keys = jax.random.split(jax.random.key(0), 50)
    sent = for_all(unit, exact)(jnp.array([0.4]), keys, data(SHAPE), jnp.zeros(SHAPE, bool))
    assert not np.any(sent.values)


@every_mode
def test_traced_rates_equal_static_ones(unit: str, exact: bool) -> None:
    rates = [0.0, 0.2, 0.5, 0.9]
    values = data(SHAPE)

    @jax.jit
    def static(values: Array) -> list[Message]:
        keys = (jax.random.split(jax.random.key(5), 1)[0] for _ in rates)
        pairs = zip([dropout(rate, unit, exact) for rate in rates], keys, strict=True)
        return [compressor.send((), key, Message(values))[1] for compressor, key in pairs]

    keys = jax.random.split(jax.random.key(5), 1)
    traced = for_all(unit, exact)(jnp.array(rates), keys, values, None)
    for n, message in enumerate(static(values)):
        np.testing.assert_array_equal(traced.masks[0].chosen[n, 0], message.masks[0].chosen)
        np.testing.assert_array_equal(traced.values[n, 0], message.values)


@every_mode
def test_all_rates_share_one_compilation(unit: str, exact: bool) -> None:
    traces = []

    @jax.jit
    def send_one(key: Array, rate: Array) -> Array:
        traces.append(rate)
        return dropout(rate, unit, exact).send((), key, Message(data(SHAPE)))[1].values

    for rate in (0.0, 0.3, 0.9):
        send_one(jax.random.key(0), jnp.float32(rate))
    assert len(traces) == 1


@every_mode
def test_the_gradient_of_units_has_their_mask_and_scale(unit: str, exact: bool) -> None:
    weights = jax.random.normal(jax.random.key(1), SHAPE)

    def loss(values: Array, rate: Array) -> tuple[Array, Message]:
        sent = dropout(rate, unit, exact).send((), jax.random.key(0), Message(values))[1]
        return jnp.sum(weights * sent.values), sent

    values = data(SHAPE)
    slope, sent = jax.jit(jax.grad(loss, has_aux=True))(values, jnp.float32(0.4))
    kept = np.broadcast_to(chosen(sent), SHAPE)
    assert 0 < kept.sum() < kept.size
    scale = np.max(np.asarray(sent.values)[kept] / np.asarray(values)[kept])
    np.testing.assert_allclose(slope, np.where(kept, weights * scale, 0), rtol=1e-5)
