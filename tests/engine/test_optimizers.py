"""Optimizers against the formulas of the papers, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.engine import optimizers

RATE = 0.1


def run(name, momentum, decay, masks=None, steps=4):
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=5), rng.normal(size=(steps, 5))
    optimizer = optimizers.build(name, optimizers.schedule("constant", RATE, 9), momentum, decay)
    params = jnp.asarray(w, jnp.float32)
    state = optimizer.init(params)
    for step, gradient in enumerate(gradients):
        params, state = optimizers.masked_step(
            optimizer, masks, jnp.asarray(gradient, jnp.float32), state, params, jnp.int32(step)
        )
    return w, gradients, np.asarray(params)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
def test_sgd(momentum, decay):
    w, gradients, actual = run("sgd", momentum, decay)
    velocity = np.zeros(5)
    for gradient in gradients:
        velocity = momentum * velocity + gradient + decay * w
        w = w - RATE * velocity
    np.testing.assert_allclose(actual, w, rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adam(name, decay):
    w, gradients, actual = run(name, 0.9, decay)
    m, v = np.zeros(5), np.zeros(5)
    for t, gradient in enumerate(gradients, 1):
        gradient = gradient + (decay * w if name == "adam" else 0)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (step + (decay * w if name == "adamw" else 0))
    np.testing.assert_allclose(actual, w, rtol=1e-4)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_kept_weights_step_as_without_masks_and_pruned_ones_stay(name):
    masks = jnp.array([True, False, True, False, True])
    start, _, masked = run(name, 0.9, 0.01, masks)
    _, _, plain = run(name, 0.9, 0.01)
    np.testing.assert_array_equal(masked[[0, 2, 4]], plain[[0, 2, 4]])
    np.testing.assert_array_equal(masked[[1, 3]], start[[1, 3]].astype(np.float32))


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_schedules_start_peak_and_end(name):
    steps = 100
    rate = np.array([float(optimizers.schedule(name, 0.5, steps)(s)) for s in range(steps + 20)])
    assert rate.max() == pytest.approx(0.5)
    if name == "constant":
        assert (rate == 0.5).all()
        return
    assert (np.abs(rate[steps:]) < 1e-7).all()
    peak = 5 if name == "warmup_cosine" else 0
    assert rate.argmax() == peak and (np.diff(rate[peak : steps + 1]) < 0).all()
    assert rate[0] == (0.0 if name == "warmup_cosine" else 0.5)


def test_schedule_of_a_single_exchange():
    for name in optimizers.SCHEDULES:
        assert np.isfinite(float(optimizers.schedule(name, 0.5, 1)(0)))
