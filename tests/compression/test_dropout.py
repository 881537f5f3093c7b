"""Dropout: unbiased, exact zeros, an exact mask, and the same mask for the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.compressor import Message, entries
from jfedsl.compression.dropout import dropout

DRAWS = 4000
RATES = [0.1, 0.5, 0.9]


def data(shape: tuple[int, ...] = (6, 5)) -> Array:
    return jax.random.normal(jax.random.key(9), shape)


def send(rate: float, seed: int, message: Message) -> Message:
    state, sent = dropout(rate).send((), jax.random.key(seed), message)
    assert state == ()
    return sent


def share(rate: float) -> float:
    """The probability to be sent, of which draws know 2^16 values."""
    return max(1, round((1 - rate) * 2**16)) / 2**16


def many(rate: float, values: Array, count: int = DRAWS) -> Message:
    """The same values sent by many clients with keys of their own: fields `[count, ...]`."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: dropout(rate).send((), key, Message(values))[1]))(keys)


@pytest.mark.parametrize("rate", RATES)
def test_is_unbiased(rate: float) -> None:
    values = data()
    mean = np.mean(many(rate, values).values, axis=0)
    # An entry x is x / (1 - rate) or 0: its variance is x^2 * rate / (1 - rate).
    error = np.abs(values) * np.sqrt(rate / (1 - rate) / DRAWS)
    assert np.all(np.abs(mean - values) <= 5 * error)


@pytest.mark.parametrize("rate", RATES)
def test_keeps_each_entry_with_probability_one_minus_rate(rate: float) -> None:
    kept = np.asarray(many(rate, data()).kept)
    deviation = np.sqrt(rate * (1 - rate))
    each = kept.mean(axis=0)
    assert np.all(np.abs(each - (1 - rate)) <= 5 * deviation / np.sqrt(DRAWS))
    assert abs(kept.mean() - (1 - rate)) <= 5 * deviation / np.sqrt(kept.size)


def test_entries_are_dropped_independently() -> None:
    kept = np.asarray(many(0.5, jnp.ones(2)).kept)
    both = np.mean(kept[:, 0] & kept[:, 1])
    assert abs(both - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / DRAWS)


@given(rate=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_what_is_kept_is_scaled_and_the_rest_exactly_zero(
    rate: float, seed: int, masked: bool
) -> None:
    values = data()
    before = values > 0 if masked else None
    sent = send(rate, seed, Message(values, before, 7, 5))
    kept, received = np.asarray(sent.kept), np.asarray(sent.values)
    assert received.shape == kept.shape == values.shape
    expected = np.where(kept, np.asarray(values) / share(rate), 0)
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    if masked:
        assert not np.any(kept & ~np.asarray(before))
    # What an entry and the headers cost is not dropout's business.
    assert (sent.entry_bits, sent.header_bits) == (7, 5)
    assert int(entries(sent)) == kept.sum()


def test_a_mask_on_the_way_in_only_takes_away_from_the_mask_drawn() -> None:
    values = data()
    free = send(0.4, 3, Message(values)).kept
    masked = send(0.4, 3, Message(values, values > 0)).kept
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


def test_the_same_key_draws_the_same_mask_and_another_another() -> None:
    first, again, other = (send(0.5, seed, Message(data())).kept for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_mask_does_not_depend_on_the_values() -> None:
    # The receiver draws it without them.
    mask = send(0.5, 0, Message(jnp.zeros((6, 5)))).kept
    np.testing.assert_array_equal(mask, send(0.5, 0, Message(data())).kept)


def test_no_two_clients_share_a_mask() -> None:
    kept = np.asarray(many(0.5, jnp.ones(64), 200).kept)
    assert len(np.unique(kept, axis=0)) == 200


def test_mapped_over_clients_equals_a_python_loop() -> None:
    values = data((3, 8))
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key: Array, values: Array) -> Array:
        return dropout(0.3).send((), key, Message(values))[1].values

    together = jax.vmap(one)(keys, values)
    for n, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        np.testing.assert_array_equal(together[n], one(key, values[n]))
