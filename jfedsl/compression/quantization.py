"""Quantizers: a code for each entry, a scale for each bucket of consecutive entries.

A tensor is flattened and cut into buckets of consecutive positions of the dense array. The
statistics of a bucket are those of its kept entries, and a bucket without kept entries sends no
header. NaN or infinity makes its whole bucket NaN, so that it is never hidden. Draws have 16 bits,
so an entry's probability of being rounded up is off by at most 2^-17. With rounding `nearest`
nothing is drawn; errors are smaller but biased, which serves as a comparison.

Bits may be a traced scalar, so that one program serves clients of different bits; 32 is off.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.compression.buckets import DEFAULT_BUCKET, Grid, bucketed, where_kept
from jfedsl.compression.compressor import Compressor, stateless
from jfedsl.compression.message import (
    Coding,
    Message,
    as_bits,
    from_bits,
    straight_through,
    unquantized,
)


def uniform(
    bits: int | Array, bucket_size: int = DEFAULT_BUCKET, rounding: str = "stochastic"
) -> Compressor:
    """Rounding to `2^bits` evenly spaced values between a bucket's least and greatest.

    Stochastic: E[Q(x)] = x (to step / 2^17) and E||Q(x) - x||^2 <= d * step^2 / 4, where
    step = (greatest - least) / (2^bits - 1).
    Header: 64 bits a bucket, least and step.

    Args:
      bits: bits of an entry, 1 to 16.
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
      rounding: one of `ROUNDINGS`.
    """

    def fit(x: Array, kept: Array | None, bits: Array | int) -> tuple[Array, Array]:
        low = jnp.min(where_kept(kept, x, jnp.inf), axis=1, keepdims=True)
        high = jnp.max(where_kept(kept, x, -jnp.inf), axis=1, keepdims=True)
        step = (high - low) / _codes(bits)
        return jnp.concatenate([low, step], axis=1), _over(x - low, step)

    grid = Grid(fit, _codes, _from_least, headers=2, signed=False)
    return bucketed(grid, bits, bucket_size, rounding)


def qsgd(
    bits: int | Array, bucket_size: int = DEFAULT_BUCKET, rounding: str = "stochastic"
) -> Compressor:
    """QSGD (arXiv 1610.02132, section 3.1): a sign and s = 2^(bits-1) - 1 levels of the L2 norm.

    Stochastic: E[Q(x)] = x (to a level / 2^17) and
    E||Q(x) - x||^2 <= min(d / s^2, sqrt(d) / s) * ||x||^2.
    Header: 32 bits a bucket. Entries below norm / (s * 2^17) are always sent as 0.

    Codes are of fixed length: every entry takes `bits` bits, zeros too. The paper's Elias coding,
    which writes zeros and small levels in fewer bits, is missing, so the bytes counted here are not
    those of the paper.

    Args:
      bits: bits of an entry with its sign, 2 to 16.
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
      rounding: one of `ROUNDINGS`.
    """

    def fit(x: Array, kept: Array | None, bits: Array | int) -> tuple[Array, Array]:
        x = where_kept(kept, x, 0.0)
        peak = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        # Squares of x / peak neither overflow nor underflow.
        scaled = _over(x, peak)
        norm = jnp.sqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True))
        t = _over(scaled, norm) * _magnitudes(bits)
        return norm * peak, t

    grid = Grid(fit, _magnitudes, _of_scale, headers=1, signed=True)
    return bucketed(grid, bits, bucket_size, rounding)


def ternary(
    bucket: int = DEFAULT_BUCKET, clip: float = 0.0, rounding: str = "stochastic"
) -> Compressor:
    """TernGrad (arXiv 1705.07878): -1, 0 or 1 times a bucket's greatest magnitude, unbiased.

    An entry x is not 0 with probability |x| / greatest. Header: 32 bits a bucket; 2 bits an entry.

    Args:
      bucket: entries in a bucket; 0 makes the whole tensor one bucket.
      clip: entries are first clipped to this many standard deviations of their bucket, which is
        biased (the paper has 2.5); 0 clips nothing.
      rounding: one of `ROUNDINGS`.
    """

    def fit(x: Array, kept: Array | None, bits: Array | int) -> tuple[Array, Array]:
        x = where_kept(kept, x, 0.0)
        if clip:
            limit = clip * _deviation(x, kept)
            x = jnp.clip(x, -limit, limit)
        peak = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        return peak, _over(x, peak)

    grid = Grid(fit, _magnitudes, _of_scale, headers=1, signed=True)
    return bucketed(grid, 2, bucket, rounding)


def sign(bucket_size: int = DEFAULT_BUCKET) -> Compressor:
    """Scaled signs (arXiv 1901.09847, algorithm 1): the sign times the bucket's mean magnitude.

    Biased, so best inside `feedback`. 0 counts as positive. Header: 32 bits a bucket; 1 bit an
    entry.

    Args:
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
    """

    def fit(x: Array, kept: Array | None, bits: Array | int) -> tuple[Array, Array]:
        number = _number(x, kept)
        mean = jnp.sum(jnp.abs(where_kept(kept, x, 0.0)), axis=1, keepdims=True) / number
        return mean, jnp.where(x < 0, 1.0, 0.0)

    grid = Grid(fit, _codes, _signs, headers=1, signed=False)
    return bucketed(grid, 1, bucket_size, "nearest")


def cast(dtype: str) -> Compressor:
    """Rounds entries to the nearest number of a 16-bit type; there are no headers.

    Args:
      dtype: bfloat16 or float16. Beyond 65504, where float16 ends, infinity is received.
    """

    def send(key: Array, message: Message) -> Message:
        del key
        short = lax.stop_gradient(unquantized(message).values).astype(dtype)
        codes = lax.bitcast_convert_type(short, jnp.uint16).astype(jnp.uint32)
        bucket = message.values.size or 1
        coding = Coding(codes, jnp.zeros((1, 0)), 16, 0, bucket, decode)
        values = straight_through(message.values, short.astype(jnp.float32))
        return message.replace(values=values, coding=coding)

    def decode(codes: Array, headers: Array, bits: Array | int) -> Array:
        short = lax.bitcast_convert_type(codes.astype(jnp.uint16), jnp.dtype(dtype))
        return short.astype(jnp.float32)

    return stateless(send)


def _from_least(index: Array, headers: Array, bits: Array | int) -> Array:
    low, step = headers[:, :1], headers[:, 1:]
    return low + _rounded_here(step * index, index)


def _of_scale(index: Array, headers: Array, bits: Array | int) -> Array:
    return headers * _rounded_here(index * (np.float32(1.0) / _magnitudes(bits)), headers)


def _signs(index: Array, headers: Array, bits: Array | int) -> Array:
    return headers * (1.0 - 2.0 * index)


def _codes(bits: Array | int) -> Array | float:
    """The greatest code of a number of bits."""
    if isinstance(bits, int):
        return 2.0**bits - 1.0
    # A shift is exact; a compiled power of 2.0 need not be. 32 bits are off, and must not overflow.
    return (jnp.left_shift(1, jnp.minimum(bits, 16)) - 1).astype(jnp.float32)


def _magnitudes(bits: Array | int) -> Array | float:
    """The greatest magnitude of a code whose highest bit is a sign."""
    return _codes(bits - 1)


def _over(x: Array, scale: Array) -> Array:
    """Divides x by a scale; by 1 where the scale is 0.

    Compilers multiply by the reciprocal, which is flushed to 0 for scales above 2^126; so x and
    large scales are made smaller first.
    """
    shrink = jnp.where(scale > 2.0**100, 2.0**-40, 1.0)
    return (x * shrink) / jnp.where(scale == 0, 1.0, scale * shrink)


def _rounded_here(product: Array, positive: Array) -> Array:
    """The product, rounded to float32 before it is used.

    Compilers may contract a product and a sum, which rounds once only, or reorder products; sender
    and receiver would then differ in the last bit. The exclusive or with the sign bit of `positive`
    (an index or a norm) prevents that: the bit is always 0, but no compiler knows.
    """
    return from_bits(as_bits(product) ^ (as_bits(positive) >> 31))


def _deviation(x: Array, kept: Array | None) -> Array:
    """Standard deviation `[N, 1]` of the kept entries of each bucket; the others have to be 0."""
    number = _number(x, kept)
    mean = jnp.sum(x, axis=1, keepdims=True) / number
    squares = jnp.square(where_kept(kept, x - mean, 0.0))
    return jnp.sqrt(jnp.sum(squares, axis=1, keepdims=True) / number)


def _number(x: Array, kept: Array | None) -> Array | float:
    """Number of kept entries of each bucket, `[N, 1]`; 1 where there are none."""
    if kept is None:
        return float(x.shape[1])
    return jnp.maximum(jnp.sum(kept, axis=1, keepdims=True), 1).astype(x.dtype)
