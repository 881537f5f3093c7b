"""Bandwidth allocation: the fractions of the uplink band that clients get."""

import math

import jax.numpy as jnp
from jax import Array, lax

ALLOCATIONS = ("equal", "minmax")

_BISECTIONS = 32  # of a bracket whose ends differ by up to e^60; they then differ by 2e-8
_SMALL = 0.1  # nats; below, a series replaces Newton's method


def equal(count: int) -> Array:
    """The same share for every client.

    Args:
      count: K, the number of clients, at least 1.

    Returns:
      Fractions of the band, float32 `[K]`.
    """
    return jnp.full((count,), 1 / count, jnp.float32)


def minmax(seconds: Array, bits: Array, strength: Array, bandwidth: Array | float) -> Array:
    """Shares with which the slowest client finishes as early as possible.

    Minimises max_n seconds_n + bits_n / (W_n log2(1 + strength_n / W_n)) over W_n >= 0 that sum to
    `bandwidth`. In the optimum all clients with bits finish at the same time T. With any bandwidth
    client n takes longer than seconds_n + bits_n ln 2 / strength_n, so that T exceeds the largest
    of these bounds. The excess is found by bisection of its logarithm.

    Achieves the optimum to 1e-6 of T, from 1e6 to 1e8 Hz, for strengths of 1e3 to 1e12 Hz, up to
    1e9 bits, up to 1e3 s and up to 10,000 clients. Gradients through it are meaningless.

    >>> shares = minmax(jnp.zeros(2), jnp.full(2, 1e6), jnp.array([1e8, 1e8]), 1e7)
    >>> shares.round(3).tolist()
    [0.5, 0.5]

    Args:
      seconds: time until each client starts to send, float32 `[K]`, s, at least 0.
      bits: that each client sends, float32 `[K]`, at least 0. A client without bits gets no band;
        if no client has bits, shares are equal.
      strength: P_n |h_n|^2 g_n / N0 of each client, the bandwidth at which its SNR is 1, float32
        `[K]`, Hz, more than 0.
      bandwidth: sum of the bandwidths of all clients, float32 `[]`, Hz, more than 0.

    Returns:
      Fractions of the band, float32 `[K]`, at least 0; their sum is 1 up to rounding.
    """
    sends = bits > 0
    least = jnp.where(sends, bits * math.log(2) / strength, 1.0)
    earliest = jnp.where(sends, seconds + least, 0.0)
    limit = jnp.max(earliest)
    slack = jnp.where(sends, limit - earliest, 0.0)

    def bands(excess: Array) -> Array:
        """The bandwidths `[K]`, Hz, with which all clients finish at `limit` + `excess`."""
        extra = (slack + excess) / least
        bandwidths = strength / ((1 + extra) * _efficiency(jnp.log1p(extra)))
        return jnp.where(sends, bandwidths, 0.0)

    def bisect(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        is_enough = jnp.sum(bands(middle)) <= bandwidth
        return jnp.where(is_enough, low, middle), jnp.where(is_enough, middle, high)

    # At an SNR of u sending takes u / log1p(u) times `least`, a factor between 1 + 3 u / (6 + u)
    # and 1 + u / 2. The first, with the whole band for each client, bounds the excess from below;
    # the second, with equal shares, from above.
    senders = jnp.sum(sends, dtype=jnp.float32)
    snr = jnp.where(sends, strength / bandwidth, 0.0)
    low = jnp.max(least * (3 * snr / (6 + snr)) - slack)
    high = jnp.max(least * (senders * snr / 2) - slack)
    _, excess = lax.fori_loop(0, _BISECTIONS, bisect, (low, high))
    bandwidths = jnp.where(senders > 0, bands(excess), 1.0)
    return bandwidths / jnp.sum(bandwidths)


def _efficiency(log_ratio: Array) -> Array:
    """The spectral efficiency at which sending takes exp(`log_ratio`) times its least time.

    At an SNR of u = exp(y) - 1 sending takes u / log(1 + u) times its least time, so that y, in
    nats/s/Hz, solves log(expm1(y) / y) = `log_ratio`. The first guess is within 4 %; after two
    Newton steps only errors of float32 remain.
    """
    large = jnp.maximum(log_ratio, _SMALL)
    y = large + jnp.log1p(large)
    for _ in range(2):
        complement = -jnp.expm1(-y)
        error = y + jnp.log(complement / y) - large
        y = y - error * complement * y / (y - complement)
    # For small y the logarithm loses digits. This series is exact to 5e-7 up to _SMALL.
    z = log_ratio
    series = z * (2 - z * (1 / 3 - z * (1 / 9 - z * (19 / 540))))
    return jnp.where(z < _SMALL, series, y)
