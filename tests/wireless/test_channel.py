"""The radio link against closed forms, and against its formulas in float64.

Seeds are fixed. Frequencies and means must lie within five standard errors, and distributions must
pass a Kolmogorov-Smirnov test at 0.1 %.
"""

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from jfedsl.wireless.channel import (
    FADINGS,
    NEAREST,
    distances,
    fading,
    from_db,
    from_dbm,
    path_gain,
    rate,
    rate_of_strength,
    shadowing,
    snr,
)

DRAWS = 100_000
EPS = float(np.finfo(np.float32).eps)
NOISE = from_dbm(-174.0)  # W/Hz

rates = jax.jit(rate_of_strength)
rings = jax.jit(distances, static_argnums=1)
shadows = jax.jit(shadowing, static_argnums=1)
of_clients = jax.jit(jax.vmap(fading, (0, None, None)), static_argnums=1)
bandwidths = st.floats(0, 9).map(lambda x: 10.0**x)  # Hz
strengths = st.floats(-3, 16).map(lambda x: 10.0**x)  # Hz


@cache
def fadings(kind: str, factor: float = 0.0, seed: int = 0) -> np.ndarray:
    """Fading powers of `DRAWS` clients, float64."""
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    drawn = of_clients(keys, kind, factor)
    assert drawn.shape == (DRAWS,) and drawn.dtype == jnp.float32
    return np.asarray(drawn, np.float64)


def assert_mean(samples: np.ndarray, expected: float) -> None:
    error = np.std(samples, ddof=1) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - expected) <= 5 * error


def assert_follows(samples: np.ndarray, cdf: Any) -> None:
    assert stats.kstest(samples, cdf).pvalue > 1e-3


# Decibels


def test_decibels():
    assert from_dbm(30.0) == 1.0
    assert from_dbm(0.0) == pytest.approx(1e-3, rel=1e-15)
    assert from_dbm(-174.0) == pytest.approx(3.981e-21, rel=1e-4, abs=0)
    assert from_db(0.0) == 1.0 and from_db(20.0) == 100.0
    assert from_db(-3.0) == pytest.approx(0.5012, rel=1e-4)


def test_decibels_of_arrays():
    db = np.linspace(-200, 60, 14)
    for convert in (from_db, from_dbm):
        exact = convert(db)
        assert exact.dtype == np.float64
        np.testing.assert_allclose(exact, [convert(x) for x in db.tolist()], rtol=1e-14)
        single = jax.jit(convert)(jnp.asarray(db, jnp.float32))
        assert single.dtype == jnp.float32
        assert_close(single, exact, rtol=1e-5, atol=0)


# Positions


@pytest.mark.parametrize("radius, nearest", [(1000.0, NEAREST), (100.0, 90.0), (500.0, 0.0)])
def test_clients_are_uniform_over_the_area(radius, nearest):
    drawn = rings(jax.random.key(1), DRAWS, radius, nearest)
    assert drawn.shape == (DRAWS,) and drawn.dtype == jnp.float32
    exact = np.asarray(drawn, np.float64)
    assert nearest <= exact.min() and exact.max() <= radius
    area = radius**2 - nearest**2
    assert_follows(exact, lambda x: (x**2 - nearest**2) / area)


def test_clients_stay_outside_of_35_m_by_default():
    drawn = np.asarray(rings(jax.random.key(2), 1000, 36.0))
    assert 35 <= drawn.min() < 35.01 and 35.99 < drawn.max() <= 36


def test_distances_of_traced_radii():
    radii = [40.0, 1000.0]
    each = [rings(jax.random.key(i), 5, radii[i]) for i in range(2)]
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    drawn = jax.jit(jax.vmap(partial(distances, clients=5)))(keys, radius=jnp.array(radii))
    assert_close(drawn, jnp.stack(each), rtol=1e-6)


# Path gain and shadowing


def test_path_gain():
    assert path_gain(1000.0) == pytest.approx(10**-12.81, rel=1e-14, abs=0)
    for distance in (35.0, 70.0, 400.0):
        fall = path_gain(distance) / path_gain(10 * distance)
        assert 10 * math.log10(fall) == pytest.approx(37.6, rel=1e-14)


def test_path_gain_agrees_with_the_loss_in_db():
    distance = np.geomspace(1, 1e5, 50)
    loss = 128.1 + 37.6 * np.log10(distance / 1000)
    np.testing.assert_allclose(path_gain(distance), 10 ** (-loss / 10), rtol=1e-13)
    single = jax.jit(path_gain)(jnp.asarray(distance, jnp.float32))
    assert single.dtype == jnp.float32
    assert_close(single, path_gain(distance), rtol=3e-6, atol=0)


@pytest.mark.parametrize("deviation", [8.0, 3.0])
def test_shadowing_is_normal_in_db(deviation):
    drawn = shadows(jax.random.key(3), DRAWS, deviation)
    assert drawn.shape == (DRAWS,) and drawn.dtype == jnp.float32
    db = 10 * np.log10(np.asarray(drawn, np.float64))
    assert_mean(db, 0.0)
    # The variance has the relative standard error sqrt(2 / draws), the deviation half of it.
    assert abs(np.std(db) / deviation - 1) <= 5 / math.sqrt(2 * DRAWS)
    assert_follows(db, stats.norm(0, deviation).cdf)


def test_no_shadowing():
    assert_equal(shadows(jax.random.key(0), DRAWS, 0.0), np.ones(DRAWS))


# Fading


def test_rayleigh_is_exponential():
    assert_follows(fadings("rayleigh"), stats.expon.cdf)


@pytest.mark.parametrize("mean_snr", [0.01, 0.3, 1.0, 10.0, 1000.0])
def test_ergodic_rate_of_rayleigh(mean_snr):
    snrs = jnp.asarray(mean_snr * fadings("rayleigh"), jnp.float32)
    expected = np.exp(1 / mean_snr) * special.exp1(1 / mean_snr) / math.log(2)
    assert_mean(np.asarray(jax.jit(rate)(1.0, snrs), np.float64), expected)


@pytest.mark.parametrize("mean_snr, threshold", [(1.0, 0.01), (1.0, 1.0), (10.0, 2.0), (0.5, 1.5)])
def test_outage_of_rayleigh(mean_snr, threshold):
    # The gain with which the mean SNR at 180 kHz is `mean_snr`.
    gain = mean_snr * NOISE * 180e3 / 0.2
    gains = jnp.asarray(gain * fadings("rayleigh"), jnp.float32)
    failed = np.asarray(jax.jit(snr)(0.2, gains, NOISE, 180e3)) < threshold
    expected = -math.expm1(-threshold / mean_snr)
    error = math.sqrt(expected * (1 - expected) / DRAWS)
    assert abs(failed.mean() - expected) <= 5 * error


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0, 20.0])
def test_moments_and_distribution_of_rician(factor):
    drawn = fadings("rician", factor, seed=1)
    assert_mean(drawn, 1.0)
    # The standard error of the mean square is that of the variance.
    assert_mean((drawn - 1) ** 2, (1 + 2 * factor) / (1 + factor) ** 2)
    assert_follows(drawn * 2 * (1 + factor), stats.ncx2(2, 2 * factor).cdf)


def test_rician_without_direct_path_is_rayleigh():
    assert_follows(fadings("rician", 0.0, seed=2), stats.expon.cdf)
    assert stats.ks_2samp(fadings("rician", 0.0, seed=2), fadings("rayleigh")).pvalue > 1e-3


def test_rician_with_the_direct_path_only_is_no_fading():
    for factor in (1e4, 1e6):
        # The deviation tends to sqrt(2 / K), and no draw of 1e5 is beyond six deviations.
        assert np.abs(fadings("rician", factor) - 1).max() <= 6 * math.sqrt(2 / factor)
    assert_equal(fadings("rician", math.inf), fadings("none"))
    assert_equal(fadings("none"), np.ones(DRAWS))


def test_factors_may_be_traced():
    factors = [0.0, 2.0, 50.0]
    rician = jax.jit(partial(fading, kind="rician"))
    each = [rician(jax.random.key(i), factor=factors[i]) for i in range(3)]
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    drawn = jax.jit(jax.vmap(partial(fading, kind="rician")))(keys, factor=jnp.array(factors))
    assert_close(drawn, jnp.stack(each))


def test_unknown_kinds_of_fading_are_refused():
    with pytest.raises(ValueError, match="fading must be one of rayleigh, .*, not 'nakagami'"):
        fading(jax.random.key(0), "nakagami", 1.0)
    for kind in FADINGS:
        assert fading(jax.random.key(0), kind, 1.0).shape == ()


# SNR and rate


def test_link_agrees_with_float64():
    rng = np.random.default_rng(0)
    shape = (1000,)
    distance, power = rng.uniform(35, 2000, shape), from_dbm(rng.uniform(10, 46, shape))
    faded, bandwidth = rng.exponential(size=shape), 10 ** rng.uniform(2, 8.3, shape)

    exact_gain = 10 ** (-(128.1 + 37.6 * np.log10(distance / 1000)) / 10) * faded
    exact_snr = power * exact_gain / (10 ** (-17.4) / 1000 * bandwidth)
    exact_rate = bandwidth * np.log2(1 + exact_snr)

    @jax.jit
    def link(distance: Any, power: Any, faded: Any, bandwidth: Any) -> Any:
        gain = path_gain(distance) * faded
        ratio = snr(power, gain, NOISE, bandwidth)
        return (
            ratio,
            rate(bandwidth, ratio),
            rate_of_strength(bandwidth, power * gain / NOISE),
        )

    inputs = [jnp.asarray(x, jnp.float32) for x in (distance, power, faded, bandwidth)]
    results = link(*inputs)
    assert all(x.dtype == jnp.float32 for x in results)
    assert_close(results, (exact_snr, exact_rate, exact_rate), rtol=5e-6, atol=0)
    assert_close(jax.jit(jax.vmap(link))(*inputs), results, rtol=1e-6, atol=0)


def test_rate_of_tiny_snr_keeps_its_digits():
    tiny = np.geomspace(1e-30, 1e-3, 20)
    exact = np.log1p(tiny) / math.log(2)
    assert_close(rate(1.0, jnp.asarray(tiny, jnp.float32)), exact, rtol=1e-6, atol=0)


@given(bandwidths, strengths)
def test_both_forms_of_the_rate_agree_with_float64(bandwidth, strength):
    exact = bandwidth * np.log1p(strength / bandwidth) / math.log(2)
    np.testing.assert_allclose(rates(bandwidth, strength), exact, rtol=8 * EPS)
    ratio = snr(strength * NOISE / 0.2, 0.2, NOISE, bandwidth)
    np.testing.assert_allclose(rate(bandwidth, ratio), exact, rtol=8 * EPS)


@given(bandwidths, strengths, st.floats(1, 1e4))
def test_rate_grows_with_bandwidth_and_with_power_but_no_faster_than_either(band, strength, factor):
    least, most = rates(band, strength) * (1 - 8 * EPS), rates(band, strength) * factor
    for grown in (rates(factor * band, strength), rates(band, factor * strength)):
        assert least <= grown <= most * (1 + 8 * EPS)


@given(st.integers(2, 50), strengths)
def test_rate_strictly_grows_over_every_octave(octave, strength):
    widths = jnp.asarray([2.0**octave, 2.0 ** (octave + 1)], jnp.float32)
    # Below an SNR of 1e-4 the gain of the last octave is lost in float32.
    narrow, wide = rates(widths, jnp.maximum(strength, 1e-4 * widths[1]))
    assert narrow < wide


@given(bandwidths, strengths, st.integers(-8, 8))
def test_scaling_bandwidth_and_power_alike_scales_the_rate(bandwidth, strength, power):
    scale = 2.0**power  # powers of two scale without rounding
    scaled = rates(scale * bandwidth, scale * strength)
    assert scaled == np.float32(scale) * rates(bandwidth, strength)


@given(st.floats(-9, 25).map(lambda x: 10.0**x), strengths)
def test_rate_never_exceeds_its_limit(bandwidth, strength):
    assert rates(bandwidth, strength) <= strength / math.log(2) * (1 + 4 * EPS)


@given(strengths)
def test_rate_saturates(strength):
    np.testing.assert_allclose(
        rates(1e8 * strength, strength), strength / math.log(2), rtol=4 * EPS
    )


def test_rate_is_0_without_bandwidth_or_signal():
    assert rate(0.0, math.inf) == 0 and rate(0.0, 5.0) == 0 and rate(1e6, 0.0) == 0
    assert rate(0.0, snr(0.2, 1e-10, NOISE, 0.0)) == 0
    strength = jnp.array([0.0, 1.0, 1e16, 0.0])
    assert_equal(rates(jnp.array([0.0, 0.0, 0.0, 1e6]), strength), np.zeros(4))
    assert snr(0.0, 1e-10, NOISE, 0.0) == 0 and 1e15 < snr(0.2, 1e-10, NOISE, 0.0) < math.inf


def test_rate_of_hardly_any_bandwidth_is_small():
    widths = np.float32(np.geomspace(1e-37, 1.0, 100))
    small_rates = np.asarray(rates(jnp.asarray(widths), 1e16), np.float64)
    assert np.all(np.diff(small_rates) > 0)
    assert np.all(small_rates <= widths * np.log2(1 + 1e16 / np.float64(widths)) * (1 + 8 * EPS))


def test_gradients():
    slopes = jax.jit(jax.vmap(jax.grad(rate_of_strength, (0, 1))))
    bandwidth = np.array([1e3, 1e5, 1e6, 1e6, 1e8])
    strength = np.array([1e9, 1e6, 1e6, 3e5, 1e7])
    ratio = strength / bandwidth
    expected = (
        (np.log1p(ratio) - ratio / (1 + ratio)) / math.log(2),
        1 / (1 + ratio) / math.log(2),
    )
    gradients = slopes(jnp.asarray(bandwidth, jnp.float32), jnp.asarray(strength, jnp.float32))
    assert_close(gradients, expected, rtol=1e-4)


def test_gradients_are_finite_and_positive_without_bandwidth():
    slopes = jax.jit(jax.vmap(jax.grad(rate_of_strength, (0, 1))))
    widths = jnp.array([0.0, 0.0, 0.0, 0.0, 1e-30, 1e-30, 1e-6])
    strength = jnp.array([0.0, 1.0, 1e9, 1e16, 1e16, 0.0, 1e16])
    by_width, by_strength = slopes(widths, strength)
    assert np.all(np.isfinite(by_width)) and np.all(np.isfinite(by_strength))
    assert_equal(by_width > 0, strength > 0)
    assert np.all(np.diff(by_width[:4]) > 0)


def test_gradients_through_the_snr_are_finite():
    def rate_of(bandwidth: Any, power: Any) -> Any:
        return rate(bandwidth, snr(power, 1e-10, NOISE, bandwidth))

    slopes = jax.vmap(jax.grad(rate_of, (0, 1)))
    gradients = jax.jit(slopes)(jnp.array([0.0, 0.0, 1e6]), jnp.array([0.0, 0.2, 0.2]))
    assert all(np.all(np.isfinite(x)) for x in gradients)
