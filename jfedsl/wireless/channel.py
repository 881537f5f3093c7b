"""The radio link of each client: distance, path gain, shadowing, fading, SNR and bit rate.

SI units (Hz, W, s, m, bits); dB only where a name says so. Everything runs inside jit and vmap.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Number = TypeVar("Number", float, np.ndarray, Array)

NEAREST = 35.0  # m, least distance from the base station (3GPP TR 36.814, annex A.2.1.1)
FADINGS = ("rayleigh", "rician", "none")

_LOSS_DB = 128.1  # path loss at 1 km
_EXPONENT = 3.76  # path loss exponent: 37.6 dB a decade

# Least bandwidth, in Hz, in the SNR. A client without bandwidth then gets 0 bit/s and a gradient
# that is large, as it should be, but finite in float32.
_LEAST_BANDWIDTH = 1e-6
# A power of exactly 0, once in millions, would make sending take infinitely long.
_LEAST_FADING = 2.0**-24
_LARGEST_SNR = 1e38  # finite in float32, so that 0 Hz times its logarithm is 0


def from_db(db: Number) -> Number:
    """A ratio of powers from dB; Python and NumPy numbers stay float64."""
    return 10.0 ** (db / 10.0)


def from_dbm(dbm: Number) -> Number:
    """A power in W from dBm; Python and NumPy numbers stay float64.

    >>> from_dbm(30.0)
    1.0
    """
    return from_db(dbm - 30.0)


def distances(
    key: Array, clients: int, radius: float | np.ndarray | Array, nearest: float | Array = NEAREST
) -> Array:
    """Distances from the base station of clients that are uniform over the area of a ring.

    Args:
      key: scalar PRNG key.
      clients: number of clients, static.
      radius: outer radius of the ring, m, at least `nearest`; of each client's, `[clients]`.
      nearest: inner radius of the ring, m.

    Returns:
      float32 `[clients]`, m.
    """
    # The square of the distance is uniform, as area grows with it.
    squares = jax.random.uniform(key, (clients,), jnp.float32, nearest**2, radius**2)
    return jnp.sqrt(squares)


def path_gain(distance: Number) -> Number:
    """Received over sent power, for a path loss of 128.1 + 37.6 log10(distance / km) dB.

    The model of an urban macro cell at 2 GHz (3GPP TR 36.942, section 4.5.2; TR 36.814, annex
    A.2.1.1).

    Args:
      distance: m, above 0, any shape.

    Returns:
      Ratio of the same shape.
    """
    # Not by way of the loss in dB, which would cost float32 a digit.
    return from_db(-_LOSS_DB) * (distance / 1000.0) ** -_EXPONENT


def shadowing(key: Array, clients: int, deviation_db: float | Array) -> Array:
    """Power factors of shadowing, log-normal with median 1 (3GPP TR 36.814, annex A.2.1.1).

    Args:
      key: scalar PRNG key.
      clients: number of clients, static.
      deviation_db: standard deviation of the factor in dB; 0 for no shadowing.

    Returns:
      float32 `[clients]`, ratio.
    """
    return from_db(deviation_db * jax.random.normal(key, (clients,), jnp.float32))


def fading(key: Array, kind: str, factor: float | Array) -> Array:
    """Power |h|^2 of one client's small-scale fading, with mean 1.

    Rayleigh: h ~ CN(0, 1), so |h|^2 ~ Exp(1). Rician: h = sqrt(K / (K + 1)) + CN(0, 1 / (K + 1)).
    Source: Tse and Viswanath, Fundamentals of Wireless Communication, section 2.4.

    Args:
      key: scalar PRNG key.
      kind: one of `FADINGS`, static.
      factor: K, power of the direct path over that of all others (a ratio, not dB); for Rician
        fading only.

    Returns:
      float32 scalar, ratio.
    """
    match kind:
        case "rayleigh":
            return jnp.maximum(jax.random.exponential(key, (), jnp.float32), _LEAST_FADING)
        case "rician":
            return fading_power(jax.random.normal(key, (2,), jnp.float32), kind, factor)
        case "none":
            return jnp.ones((), jnp.float32)
        case _:
            raise ValueError(f"fading must be one of {', '.join(FADINGS)}, not {kind!r}")


def fading_power(scattered: Array, kind: str, factor: float | Array) -> Array:
    """Power |h|^2 of a fading whose scattered part is given, with mean 1.

    Args:
      scattered: real and imaginary part, each standard normal, float32 `[2]`.
      kind: "rayleigh" or "rician", static.
      factor: K, as for `fading`.

    Returns:
      float32 scalar, ratio.
    """
    match kind:
        case "rayleigh":
            return jnp.maximum(jnp.sum(scattered**2) / 2.0, _LEAST_FADING)
        case "rician":
            share = 1.0 / (1.0 + jnp.asarray(factor, jnp.float32))
            real, imaginary = scattered * jnp.sqrt(share / 2.0)
            return (jnp.sqrt(1.0 - share) + real) ** 2 + imaginary**2
        case _:
            raise ValueError(f"fading with memory must be rayleigh or rician, not {kind!r}")


def snr(
    power: float | Array, gain: float | Array, noise: float | Array, bandwidth: float | Array
) -> Array:
    """Signal over noise power at the receiver, finite even without bandwidth.

    Args:
      power: sent power, W.
      gain: received over sent power, fading included.
      noise: spectral density of the noise power, W/Hz.
      bandwidth: Hz.

    Returns:
      Ratio, of the shape that the arguments broadcast to.
    """
    # Two divisions: noise times bandwidth is squared in the gradient and may be 0 in float32.
    return power * gain / noise / jnp.maximum(bandwidth, _LEAST_BANDWIDTH)


def rate(bandwidth: float | Array, snr: float | Array) -> Array:
    """Shannon's capacity W log2(1 + SNR), and 0 without bandwidth whatever the SNR.

    Args:
      bandwidth: W, Hz.
      snr: ratio.

    Returns:
      bit/s, of the shape that the arguments broadcast to.
    """
    return bandwidth * (jnp.log1p(jnp.minimum(snr, _LARGEST_SNR)) / math.log(2.0))


def rate_of_strength(bandwidth: float | Array, strength: float | Array) -> Array:
    """Capacity W log2(1 + strength / W), from the bandwidth at which the SNR is 1.

    It is 0 without bandwidth, grows with W, is concave, and tends to strength / ln 2. Gradients are
    finite everywhere.

    Args:
      bandwidth: W, Hz.
      strength: power * gain / noise, the bandwidth at which the SNR is 1, Hz.

    Returns:
      bit/s, of the shape that the arguments broadcast to.
    """
    return rate(bandwidth, snr(strength, 1.0, 1.0, bandwidth))
