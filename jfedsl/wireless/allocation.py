"""How clients share the band."""

import math

import jax.numpy as jnp
from jax import Array, lax

ALLOCATIONS = ("equal", "minmax")

_HALVINGS = 32  # leave 1 + 2e-8 of a bracket of e^60
_SMALL = 0.1  # nats


def equal(count: int) -> Array:
    """The same share for every client.

    Args:
      count: K, at least 1.

    Returns:
      Fractions of the band, float32 `[K]`.
    """
    return jnp.full((count,), 1 / count, jnp.float32)


def minmax(seconds: Array, bits: Array, strength: Array, bandwidth: Array | float) -> Array:
    """Shares under which the slowest client is done as early as possible.

    Minimises max_n seconds_n + bits_n / (W_n log2(1 + strength_n / W_n)) over W_n >= 0 that sum to
    `bandwidth`. All clients with bits are then done at the same time T. No bandwidth brings client
    n under seconds_n + bits_n ln 2 / strength_n, so the search is for T's excess over the largest
    of these, by halving the logarithm of a bracket.

    Achieves the optimum to 1e-6 of T, from 1e6 to 1e8 Hz, for strengths of 1e3 to 1e12 Hz, up to
    1e9 bits, up to 1e3 s and up to 10,000 clients. Gradients through it mean nothing.

    Args:
      seconds: before a client starts to send, float32 `[K]`, s, at least 0.
      bits: to send, float32 `[K]`, at least 0. Who has none gets no band; if nobody has any, shares
        are equal.
      strength: P_n |h_n|^2 g_n / N0, the bandwidth on which the SNR is 1, float32 `[K]`, Hz, more
        than 0.
      bandwidth: of all clients together, float32 `[]`, Hz, more than 0.

    Returns:
      Fractions of the band, float32 `[K]`, at least 0; their sum is 1 up to rounding.
    """
    sends = bits > 0
    least = jnp.where(sends, bits * math.log(2) / strength, 1.0)
    earliest = jnp.where(sends, seconds + least, 0.0)
    limit = jnp.max(earliest)
    slack = jnp.where(sends, limit - earliest, 0.0)

    def bands(excess: Array) -> Array:
        """The bandwidths `[K]` with which clients are done by `limit` + `excess`."""
        longer = (slack + excess) / least
        needed = strength / ((1 + longer) * _efficiency(jnp.log1p(longer)))
        return jnp.where(sends, needed, 0.0)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        enough = jnp.sum(bands(middle)) <= bandwidth
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    # With SNR u sending takes u / log1p(u) times `least`, which is between 1 + 3 u / (6 + u), here
    # of the whole band, and 1 + u / 2, of an equal share.
    senders = jnp.sum(sends, dtype=jnp.float32)
    snr = jnp.where(sends, strength / bandwidth, 0.0)
    low = jnp.max(least * (3 * snr / (6 + snr)) - slack)
    high = jnp.max(least * (senders * snr / 2) - slack)
    _, excess = lax.fori_loop(0, _HALVINGS, halve, (low, high))
    wanted = jnp.where(senders > 0, bands(excess), 1.0)
    return wanted / jnp.sum(wanted)


def _efficiency(log_longer: Array) -> Array:
    """Nats a second and hertz, y, at which sending takes exp(`log_longer`) times its least time.

    At an SNR of u = exp(y) - 1 it takes u / log(1 + u) times that: solves log(expm1(y) / y) =
    `log_longer`. Two Newton steps, from within 4 %, leave only float32's errors.
    """
    large = jnp.maximum(log_longer, _SMALL)
    y = large + jnp.log1p(large)
    for _ in range(2):
        silent = -jnp.expm1(-y)
        error = y + jnp.log(silent / y) - large
        y = y - error * silent * y / (y - silent)
    # The logarithm loses digits where y is small. This series inverts it, to 5e-7 at _SMALL.
    z = log_longer
    series = z * (2 - z * (1 / 3 - z * (1 / 9 - z * (19 / 540))))
    return jnp.where(z < _SMALL, series, y)
