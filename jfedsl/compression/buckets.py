"""Quantization in buckets: a code for each entry, a header for consecutive entries."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, chain, stateless
from jfedsl.compression.message import (
    FLOAT_BITS,
    HEADER_BITS,
    Coding,
    Decode,
    Message,
    as_bits,
    from_bits,
    from_buckets,
    straight_through,
    to_buckets,
    unquantized,
)

DEFAULT_BUCKET = 512  # entries
ROUNDINGS = ("stochastic", "nearest")


class Grid(NamedTuple):
    """The values that a bucket is rounded to, numbered by an integer index.

    Attributes:
      fit: `(x[N, bucket], kept or None, bits) -> (headers[N, H], t[N, bucket])`: the header of each
        bucket, and each entry as a real number t on the scale of the index.
      top: `bits -> ` the greatest magnitude of an index.
      value: `(index[N, bucket], headers, bits) -> values`, the same bits in every program.
      headers: H.
      signed: whether the index has a sign, which is the highest bit of the code.
    """

    fit: Callable[[Array, Array | None, Array | int], tuple[Array, Array]]
    top: Callable[[Array | int], Array | float]
    value: Callable[[Array, Array, Array | int], Array]
    headers: int
    signed: bool


def bucketed(grid: Grid, bits: int | Array, bucket_size: int, rounding: str) -> Compressor:
    """The quantizer that rounds the entries of each bucket to its grid.

    Args:
      grid: of a bucket.
      bits: of an entry, a number or a traced scalar; 32 sends float32.
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
      rounding: one of `ROUNDINGS`.
    """
    if isinstance(bits, int) and bits == FLOAT_BITS:
        return chain()
    decode = _decoder(grid.value, grid.signed)

    def send(key: Array, message: Message) -> Message:
        shape, size = message.values.shape, unquantized(message).values.size
        width = min(bucket_size or size, size) or 1
        x = to_buckets(lax.stop_gradient(message.values), width)
        # Without a mask none is built: XLA would fold a mask of ones into a constant of the size
        # of the tensor, which takes seconds to compile.
        kept = message.kept
        flags = to_buckets(kept, width) if kept is not None else _inside(x.shape, size)
        headers, t = grid.fit(x, flags, bits)
        headers = jnp.where(jnp.isfinite(headers), headers, jnp.nan)
        index = _round(key if rounding == "stochastic" else None, t, grid.top(bits))
        received = from_buckets(where_kept(flags, grid.value(index, headers, bits), 0.0), shape)
        codes = from_buckets(_to_codes(grid, index, bits), shape)
        coding = Coding(codes, headers, bits, grid.headers * HEADER_BITS, width, decode)
        if not isinstance(bits, int):
            received, coding = _unless_off(message.values, received, coding)
        values = straight_through(message.values, received)
        return message.replace(values=values, coding=coding)

    return stateless(send)


def _unless_off(values: Array, received: Array, coding: Coding) -> tuple[Array, Coding]:
    """What is received, and its coding; the values themselves where the bits are 32."""
    off = coding.bits == FLOAT_BITS
    coding = coding.replace(
        codes=jnp.where(off, as_bits(lax.stop_gradient(values)), coding.codes),
        header_bits=jnp.where(off, 0, coding.header_bits),
    )
    return jnp.where(off, values, received), coding


@functools.cache
def _decoder(value: Decode, signed: bool) -> Decode:
    """The decoder of a quantizer; cached, as messages with another function are other pytrees."""

    def decode(codes: Array, headers: Array, bits: Array | int) -> Array:
        if isinstance(bits, int) and bits == FLOAT_BITS:
            return from_bits(codes)
        return value(_to_index(signed, codes, bits), headers, bits)

    return decode


def _round(key: Array | None, t: Array, top: Array | float) -> Array:
    """Rounds t in [-top, top] to an integer: stochastically, or to the nearest without a key."""
    if key is None:
        u: Array | float = 0.5
    else:
        # The middle of each draw's interval: the error of the probability, up to 2^-17, has either
        # sign, and an entry that float32 puts slightly above its level is not rounded up.
        u = (draws.uint16(key, t.shape).astype(t.dtype) + 0.5) / draws.LEVELS
    size = jnp.abs(t)
    # min(floor + carry, top), not floor(t + u): in float32 that overflows the top code.
    floor = jnp.minimum(jnp.floor(size), top)
    index = jnp.minimum(floor + (u < size - floor).astype(t.dtype), top)
    # 0.0 - index gives 0 for 0, not -0, which has the same code and would decode to another value.
    return jnp.where(t < 0, 0.0 - index, index)


def _to_codes(grid: Grid, index: Array, bits: Array | int) -> Array:
    magnitude = jnp.where(jnp.isnan(index), 0.0, jnp.abs(index)).astype(jnp.uint32)
    if not grid.signed:
        return magnitude
    return jnp.where(index < 0, magnitude | _sign_bit(bits), magnitude)


def _to_index(signed: bool, codes: Array, bits: Array | int) -> Array:
    if not signed:
        # By way of signed integers, so that no compiler knows that the sign bit of the result is 0;
        # see `quantization._rounded_here`.
        return codes.astype(jnp.int32).astype(jnp.float32)
    magnitude = (codes & (_sign_bit(bits) - 1)).astype(jnp.float32)
    return jnp.where(codes & _sign_bit(bits) != 0, -magnitude, magnitude)


def _sign_bit(bits: Array | int) -> Array:
    return jnp.uint32(1) << (jnp.asarray(bits) - 1).astype(jnp.uint32)


def where_kept(kept: Array | None, x: Array, fill: float) -> Array:
    """The kept entries of x, `fill` for the others; None keeps all."""
    return x if kept is None else jnp.where(kept, x, fill)


def _inside(shape: tuple[int, ...], size: int) -> Array | None:
    """Mask `[N, bucket]` of the first `size` positions, which are not padding; None: all."""
    if math.prod(shape) == size:
        return None
    rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows * shape[1] + columns < size
