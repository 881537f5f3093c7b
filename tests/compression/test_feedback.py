"""Error feedback: nothing is lost, only late; and every client has its own memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from jfedsl.compression.compressor import Compressor, chain, feedback
from jfedsl.compression.message import Message, kept_only, message_bytes
from jfedsl.compression.quantization import sign, uniform
from jfedsl.compression.sparsification import randtopk, topk

STEPS = 40
SIZE = 40
CHAINS = {
    "topk": topk(0.1),
    "randtopk": randtopk(0.1, 0.2),
    "sign": sign(16),
    "uniform": uniform(3, 16),
    "topk, then uniform": chain(topk(0.25), uniform(4, 16)),
}
all_chains = pytest.mark.parametrize("kind", CHAINS)


def data(shape: tuple[int, ...] = (SIZE,), seed: int = 5) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


@partial(jax.jit, static_argnums=0)
def run(compressor: Compressor, inputs: Array, kept: Array, key: Array) -> tuple[Any, Array]:
    """Sends the rows of `inputs[T, N]` with masks `kept[T, N]`: states and values `[T, ...]`."""

    def step(state: Any, row: tuple[Array, Array, Array]) -> tuple[Any, tuple[Any, Array]]:
        key, values, mask = row
        state, sent = compressor.send(state, key, kept_only(values, mask))
        return state, (state, sent.values)

    keys = jax.random.split(key, len(inputs))
    return lax.scan(step, compressor.init(inputs[0]), (keys, inputs, kept))[1]


def residuals(states: Any) -> np.ndarray:
    return np.asarray(states[0], np.float64)


@all_chains
def test_what_is_sent_plus_the_error_is_the_corrected_input(kind: str) -> None:
    inputs, kept = data((STEPS, SIZE)), np.asarray(data((STEPS, SIZE), 6)) > -0.5
    states, values = run(feedback(CHAINS[kind]), inputs, jnp.asarray(kept), jax.random.key(0))
    errors = residuals(states)
    before = np.concatenate([np.zeros((1, SIZE)), errors[:-1]])
    corrected = np.asarray(inputs, np.float64) + before
    # One sum and one difference in float32, of numbers a few times as large.
    rounding = 8 * np.finfo(np.float32).eps * np.abs(corrected).max()
    np.testing.assert_allclose((values + errors)[kept], corrected[kept], rtol=0, atol=rounding)
    # Entries outside of the mask keep their error.
    np.testing.assert_array_equal(errors[~kept], before[~kept])
    assert not np.asarray(values)[~kept].any()


@all_chains
def test_nothing_is_lost_over_many_steps(kind: str) -> None:
    inputs, kept = data((STEPS, SIZE)), jnp.ones((STEPS, SIZE), bool)
    states, values = run(feedback(CHAINS[kind]), inputs, kept, jax.random.key(1))
    sent = np.asarray(values, np.float64).sum(axis=0)
    total = np.asarray(inputs, np.float64).sum(axis=0)
    np.testing.assert_allclose(sent + residuals(states)[-1], total, rtol=0, atol=1e-4)
    assert np.abs(residuals(states)[-1]).max() > 1e-3  # there was an error to feed back


def test_the_state_begins_with_nothing_left_and_holds_that_of_the_compressor() -> None:
    left, inner = feedback(chain(topk(0.5), topk(0.5))).init(data((3, 4)))
    np.testing.assert_array_equal(left, np.zeros((3, 4)))
    assert inner == ((), ())


def test_the_first_message_is_what_the_compressor_sends_alone() -> None:
    one, kept = data((1, SIZE)), jnp.ones((1, SIZE), bool)
    _, values = run(feedback(CHAINS["sign"]), one, kept, jax.random.key(2))
    alone = sign(16).send((), jax.random.key(3), Message(one[0]))[1]
    np.testing.assert_array_equal(values[0], alone.values)


def test_a_message_costs_what_it_costs_without_feedback() -> None:
    def cost(compressor: Compressor) -> Array:
        state = compressor.init(data())
        return message_bytes([compressor.send(state, jax.random.key(0), Message(data()))[1]])

    compressor = CHAINS["topk, then uniform"]
    assert int(jax.jit(partial(cost, feedback(compressor)))()) == int(
        jax.jit(partial(cost, compressor))()
    )


@pytest.mark.parametrize("kind", ["topk", "sign"])
def test_the_mean_error_of_a_biased_compressor_vanishes(kind: str) -> None:
    inputs = jnp.broadcast_to(data(), (400, SIZE))
    kept = jnp.ones(inputs.shape, bool)
    states, values = run(feedback(CHAINS[kind]), inputs, kept, jax.random.key(4))
    error = np.abs(np.asarray(values, np.float64).mean(axis=0) - data())
    # The error does not grow, so its share of the sum goes to 0 as 1 / T.
    largest = np.abs(residuals(states)).max()
    assert np.all(error <= largest / 400 + 1e-5)
    assert np.abs(residuals(states)[200:]).max() <= 1.5 * np.abs(residuals(states)[:200]).max()
    alone = jax.jit(partial(CHAINS[kind].send, ()))(jax.random.key(5), Message(data()))[1]
    assert error.max() < 0.1 * np.abs(alone.values - data()).max()


def test_entries_that_were_never_sent_are_sent_in_time() -> None:
    inputs = jnp.broadcast_to(jnp.linspace(0.5, 1.0, SIZE), (STEPS, SIZE))
    kept = jnp.ones(inputs.shape, bool)
    _, values = run(feedback(topk(0.1)), inputs, kept, jax.random.key(6))
    assert np.all(np.any(np.asarray(values) != 0, axis=0))


def test_every_client_has_its_own_memory() -> None:
    compressor = feedback(CHAINS["topk, then uniform"])
    inputs, kept = data((3, STEPS, SIZE)), data((3, STEPS, SIZE), 6) > -0.5

    def keys() -> Array:
        return jax.random.split(jax.random.key(7), 3)

    together = jax.vmap(partial(run, compressor))(inputs, kept, keys())
    for n, key in enumerate(keys()):
        alone = run(compressor, inputs[n], kept[n], key)
        jax.tree.map(
            lambda clients, client, n=n: np.testing.assert_array_equal(clients[n], client),
            together,
            alone,
        )


def test_nan_stays_in_the_error_and_is_never_hidden() -> None:
    inputs = data((4, SIZE)).at[1, 7].set(jnp.nan)
    kept = jnp.ones(inputs.shape, bool)
    _, values = run(feedback(topk(0.1)), inputs, kept, jax.random.key(8))
    np.testing.assert_array_equal(np.isnan(values[:, 7]), [False, True, True, True])
    assert np.all(np.isfinite(np.delete(np.asarray(values), 7, axis=1)))


def test_the_gradient_is_that_of_the_compressor_and_none_flows_into_the_error() -> None:
    weights = data((SIZE,), 8)

    def loss(values: Array) -> tuple[Array, Array]:
        compressor = feedback(topk(0.1))
        (error, _), sent = compressor.send(
            compressor.init(values), jax.random.key(0), Message(values)
        )
        return jnp.sum(weights * sent.values) + jnp.sum(error), sent.values

    slope, sent = jax.jit(jax.grad(loss, has_aux=True))(data())
    np.testing.assert_array_equal(slope, np.where(np.asarray(sent) != 0, weights, 0.0))
