"""Curvature against the eigenvalues of known matrices and Hessians."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jfedsl.models import blocks, layers
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS
from jfedsl.nn import pooling
from jfedsl.theory.curvature import Point, hessian_product, largest_curvature, rise, secant
from jfedsl.theory.estimates import Estimate

LIKE = ({"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}, {}, {"a": jnp.zeros(2)})
SIZE = 10
fold = ravel_pytree(LIKE)[1]
spectra = st.lists(st.floats(-3, 3, width=32), min_size=SIZE, max_size=SIZE)


def matrix(spectrum: Any, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues, in random directions."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))
    return np.float32(turn * np.asarray(spectrum) @ turn.T)


def product(matrix: Array, direction: Any) -> Any:
    return fold(matrix @ ravel_pytree(direction)[0])


@jax.jit
def largest(matrix: Array, seed: int = 0, iterations: int = 100) -> Estimate:
    return largest_curvature(partial(product, matrix), LIKE, jax.random.key(seed), iterations)


@given(spectra, st.integers(0, 99), st.integers(1, 20))
def test_the_value_is_at_most_the_norm_and_near_an_eigenvalue(spectrum, seed, iterations):
    value, error = largest(matrix(spectrum, seed), seed, iterations)
    norm = np.max(np.abs(spectrum))
    assert 0 <= value <= norm * (1 + 1e-5)
    # H u is the sum of (u^T H u) u and the residual, which are orthogonal. The smaller the first,
    # the larger its error in float32.
    along = np.sqrt(max(float(value) ** 2 - float(error) ** 2, 0))
    assert np.min(np.abs(np.abs(spectrum) - along)) <= error + 2e-3 * norm


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(3))
def test_finds_the_eigenvalue_of_largest_size_whatever_its_sign(sign, seed):
    value, error = largest(matrix([sign * 3, -2, 2, 1.5, 1, 0.5, 0, 0, 0, -1], seed), seed)
    np.testing.assert_allclose(value, 3, rtol=1e-5)
    assert error <= 1e-4


def test_eigenvalues_of_opposite_sign_give_the_right_value_with_an_error() -> None:
    value, error = largest(matrix([2, -2, *np.linspace(-1, 1, SIZE - 2)]))
    np.testing.assert_allclose(value, 2, rtol=1e-5)
    assert error > 0.1, "the direction does not converge"


@pytest.mark.parametrize("iterations", [1, 5])
def test_no_curvature_is_0_and_nan_stays_nan(iterations):
    assert largest(np.zeros((SIZE, SIZE), np.float32), 0, iterations) == (0, 0)
    assert np.isnan(largest(np.full((SIZE, SIZE), np.nan, np.float32), 0, iterations)).all()


def along(matrix: Array, start: Array, step: Array) -> tuple[Estimate, Estimate]:
    """Secant and rise of a step on the quadratic with that Hessian."""

    def at(w: Array) -> Point:
        return Point(fold(w), w @ matrix @ w / 2, product(matrix, fold(w)))

    return secant(at(start), at(start + step)), rise(at(start), at(start + step))


both = jax.jit(along)


@given(spectra, st.integers(0, 99), st.floats(0.05, 1), st.floats(0, 1))
def test_secant_and_rise_of_a_noisy_step_on_a_quadratic(spectrum, seed, size, noise):
    curve, norm = matrix(spectrum, seed), np.max(np.abs(spectrum))
    rng = np.random.default_rng(seed + 100)
    start = np.float32(rng.normal(size=SIZE))
    # Noise turns the step away from the gradient, which is along the sharpest directions.
    step = np.float32(size * ((1 - noise) * curve @ start + noise * rng.normal(size=SIZE)))
    assume(np.linalg.norm(step) > 0.1 * norm + 0.01)
    change, needed = both(curve, start, step)
    bent, square = np.float64(curve) @ step, np.float64(step) @ step
    np.testing.assert_allclose(change.value, np.sqrt(bent @ bent / square), atol=1e-3 * norm)
    if np.isfinite(needed.value):
        # The products in f are rounded, too.
        expected, allowed = step @ bent / square, 4 * needed.error + 1e-3 * norm
        np.testing.assert_allclose(needed.value, expected, atol=allowed)
    assert change.value <= norm * (1 + 1e-3)


def test_along_an_eigenvector_both_are_its_eigenvalue_the_rise_with_its_sign() -> None:
    spectrum = np.diag(np.float32([4, -2, *[0.5] * (SIZE - 2)]))
    start, unit = np.ones(SIZE, np.float32), np.eye(SIZE, dtype=np.float32)
    for axis, value in ((0, 4.0), (1, -2.0)):
        change, needed = both(spectrum, start, 0.25 * unit[axis])
        assert change == (abs(value), 0)
        np.testing.assert_allclose(needed.value, value, atol=1e-4)


def test_a_step_too_short_for_float32_has_no_rise_and_a_step_of_0_no_secant() -> None:
    curve, start = np.eye(SIZE, dtype=np.float32), 8 * np.ones(SIZE, np.float32)
    change, needed = both(curve, start, np.full(SIZE, 1e-3, np.float32))
    np.testing.assert_allclose(change.value, 1, rtol=1e-3)
    assert np.isnan(needed).all(), "f = 320 is rounded by 2e-5"
    with np.errstate(invalid="ignore"):
        assert all(np.isnan(x.value) for x in both(curve, start, np.zeros(SIZE, np.float32)))


def hessian(loss: Callable[[Any], Array], at: Any) -> np.ndarray:
    """The Hessian, by products with unit directions."""
    flat, unravel = ravel_pytree(at)
    column = lambda unit: ravel_pytree(hessian_product(loss, at, unravel(unit)))[0]  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(column))(jnp.eye(len(flat))))


def test_products_with_the_hessian_of_a_smooth_loss_equal_jax_hessian() -> None:
    mix = jnp.asarray(np.random.default_rng(0).normal(size=(7, SIZE)), jnp.float32)

    def loss(params: Any) -> Array:
        mixed = mix @ ravel_pytree(params)[0]
        return jnp.sum(jnp.tanh(mixed) ** 2) + jnp.sum(jnp.exp(mixed[:3]))

    at = fold(jnp.linspace(-0.5, 0.5, SIZE))
    expected = jax.jit(jax.hessian(lambda flat: loss(fold(flat))))(ravel_pytree(at)[0])
    assert_close(hessian(loss, at), expected, rtol=1e-4, atol=1e-4)


def regression() -> tuple[Callable[[Any], Array], Any, np.ndarray]:
    """Multinomial logistic regression: loss, weights, and the Hessian there in float64."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    kernel = rng.normal(size=(5, 3))
    ones = np.concatenate([images, np.ones((50, 1))], axis=1)
    odds = np.exp(images @ kernel)
    odds /= odds.sum(axis=1, keepdims=True)
    bends = np.einsum("mi,ij->mij", odds, np.eye(3)) - np.einsum("mi,mj->mij", odds, odds)
    exact = np.einsum("ma,mb,mij->aibj", ones, ones, bends).reshape(18, 18) / 50

    def loss(params: Any) -> Array:
        logits = jnp.asarray(images, jnp.float32) @ params[0]["kernel"] + params[1]["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()

    return loss, ({"kernel": jnp.asarray(kernel, jnp.float32)}, {"bias": jnp.zeros(3)}), exact


def test_the_curvature_of_logistic_regression_is_that_of_its_exact_hessian() -> None:
    loss, at, exact = regression()
    assert_close(hessian(loss, at), exact, rtol=1e-4, atol=1e-5)
    curve = partial(hessian_product, loss, at)
    estimate = jax.jit(lambda key: largest_curvature(curve, at, key, 100))(jax.random.key(0))
    np.testing.assert_allclose(estimate.value, np.linalg.norm(exact, 2), rtol=1e-4)


def plain_pool(x: Array) -> Array:
    """2x2 max-pooling that takes the first of equal entries."""
    batch, height, width, channels = x.shape
    cut = x[:, : height // 2 * 2, : width // 2 * 2]
    windows = cut.reshape(batch, height // 2, 2, width // 2, 2, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(*windows.shape[:4], 4)
    return jnp.take_along_axis(windows, windows.argmax(axis=4, keepdims=True), axis=4)[..., 0]


@pytest.fixture
def plain_ops(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Replaces the models' operations, which lack a forward mode, by plain ones."""

    def replace() -> None:
        monkeypatch.setattr(blocks, "conv_general_dilated", lax.conv_general_dilated)
        monkeypatch.setattr(pooling, "relu", lambda x: jnp.where(x > 0, x, 0.0))
        monkeypatch.setattr(pooling, "max_pool", plain_pool)

    return replace


def loss_of(build: Callable[[], layers.Model], image: tuple[int, ...]) -> tuple[Any, Any]:
    """Cross-entropy of a model on four random images, and initial weights."""
    model, images = build(), jax.random.normal(jax.random.key(0), (4, *image))
    params, stats, _ = jax.jit(lambda key: layers.init(model, key, images))(jax.random.key(1))

    def loss(params: Any) -> Array:
        logits, _ = layers.apply(model, params, stats, images, False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4) % 3).mean()

    return loss, params


def test_products_with_a_networks_hessian_equal_forward_over_reverse(plain_ops) -> None:
    build, image = partial(MODELS["cnn"].build, 3, "none"), (8, 8, 1)
    loss, at = loss_of(build, image)
    flat, unravel = ravel_pytree(at)
    u, v = (jax.random.normal(jax.random.key(i), flat.shape) for i in (2, 3))
    run = jax.jit(lambda direction: ravel_pytree(hessian_product(loss, at, unravel(direction)))[0])
    hessian_u, hessian_v = run(u), run(v)
    plain_ops()
    reference, _ = loss_of(build, image)
    tangent = jax.jit(lambda d: jax.jvp(jax.grad(reference), (at,), (unravel(d),))[1])
    expected = ravel_pytree(tangent(u))[0]
    assert np.linalg.norm(hessian_u - expected) <= 1e-4 * np.linalg.norm(expected)
    scale = np.linalg.norm(hessian_u) * np.linalg.norm(v)
    assert abs(float(v @ hessian_u) - float(u @ hessian_v)) <= 1e-5 * scale, "not symmetric"


def test_the_largest_curvature_of_a_small_network_is_its_hessians_norm(plain_ops) -> None:
    build = partial(mlp, 3, widths=(6, 5))
    loss, at = loss_of(build, (4,))
    curve = partial(hessian_product, loss, at)
    value, error = jax.jit(lambda key: largest_curvature(curve, at, key, 200))(jax.random.key(2))
    products = hessian(loss, at)
    plain_ops()
    reference, _ = loss_of(build, (4,))
    flat, unravel = ravel_pytree(at)
    expected = np.float64(jax.jit(jax.hessian(lambda x: reference(unravel(x))))(flat))
    assert_close(products, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, np.linalg.norm(expected, 2), rtol=1e-4)
    assert error <= 1e-2 * value
