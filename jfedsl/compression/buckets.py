"""Writing a tensor as a code for each entry and a header for each bucket of consecutive entries."""

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
    unwritten,
)

DEFAULT_BUCKET = 512  # entries
ROUNDINGS = ("stochastic", "nearest")


class Grid(NamedTuple):
    """Where a bucket's values are rounded to.

    Attributes:
      fit: `(x[N, bucket], kept or None, bits) -> (headers[N, H], t[N, bucket])`: what the receiver
        has to know of each bucket, and each entry's place between whole numbers, signed or not.
      top: `bits -> the greatest of these`.
      value: `(index[N, bucket], headers, bits) -> values`, of whole numbers; the same bits in any
        program.
      headers: H.
      signed: whether places have a sign; it is the highest bit of the code.
    """

    fit: Callable[[Array, Array | None, Array | int], tuple[Array, Array]]
    top: Callable[[Array | int], Array | float]
    value: Callable[[Array, Array, Array | int], Array]
    headers: int
    signed: bool


def bucketed(grid: Grid, bits: int | Array, bucket_size: int, rounding: str) -> Compressor:
    """Rounds entries to a grid of each bucket; what leaves entries out comes before.

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
        shape, size = message.values.shape, unwritten(message).values.size
        width = min(bucket_size or size, size) or 1
        x = to_buckets(lax.stop_gradient(message.values), width)
        # A mask of ones would be folded into a constant as large as the tensor, in seconds.
        kept = message.kept
        flags = to_buckets(kept, width) if kept is not None else _inside(x.shape, size)
        headers, place = grid.fit(x, flags, bits)
        headers = jnp.where(jnp.isfinite(headers), headers, jnp.nan)
        index = _round(key if rounding == "stochastic" else None, place, grid.top(bits))
        received = from_buckets(only(flags, grid.value(index, headers, bits), 0.0), shape)
        codes = from_buckets(_to_codes(grid, index, bits), shape)
        coding = Coding(codes, headers, bits, grid.headers * HEADER_BITS, width, decode)
        if not isinstance(bits, int):
            received, coding = _unless_off(message.values, received, coding)
        values = straight_through(message.values, received)
        return message.replace(values=values, coding=coding)

    return stateless(send)


def _unless_off(values: Array, received: Array, coding: Coding) -> tuple[Array, Coding]:
    """What is received and its coding, or the values as they are where the bits say so."""
    off = coding.bits == FLOAT_BITS
    coding = coding.replace(
        codes=jnp.where(off, as_bits(lax.stop_gradient(values)), coding.codes),
        header_bits=jnp.where(off, 0, coding.header_bits),
    )
    return jnp.where(off, values, received), coding


@functools.cache
def _decoder(value: Decode, signed: bool) -> Decode:
    """One for all compressors of a kind, so that their messages are trees of one structure."""

    def decode(codes: Array, headers: Array, bits: Array | int) -> Array:
        if isinstance(bits, int) and bits == FLOAT_BITS:
            return from_bits(codes)
        return value(_to_index(signed, codes, bits), headers, bits)

    return decode


def _round(key: Array | None, place: Array, top: Array | float) -> Array:
    """Whole numbers next to places in [-top, top], drawn by the fraction, or the nearest."""
    if key is None:
        u: Array | float = 0.5
    else:
        # The middle of each draw's interval: as often up as down where 16 bits cannot tell, and an
        # entry that rounding lifted a little above its level stays there.
        u = (draws.uint16(key, place.shape).astype(place.dtype) + 0.5) / draws.LEVELS
    size = jnp.abs(place)
    # min(floor + carry, top), not floor(t + u): in float32 that overflows the top code.
    floor = jnp.minimum(jnp.floor(size), top)
    index = jnp.minimum(floor + (u < size - floor).astype(place.dtype), top)
    # Never -0: its code would be that of 0.
    return jnp.where(place < 0, 0.0 - index, index)


def _to_codes(grid: Grid, index: Array, bits: Array | int) -> Array:
    magnitude = jnp.where(jnp.isnan(index), 0.0, jnp.abs(index)).astype(jnp.uint32)
    if not grid.signed:
        return magnitude
    return jnp.where(index < 0, magnitude | _sign_bit(bits), magnitude)


def _to_index(signed: bool, codes: Array, bits: Array | int) -> Array:
    if not signed:
        # By way of signed numbers: of these no compiler knows that the sign bit is 0.
        return codes.astype(jnp.int32).astype(jnp.float32)
    magnitude = (codes & (_sign_bit(bits) - 1)).astype(jnp.float32)
    return jnp.where(codes & _sign_bit(bits) != 0, -magnitude, magnitude)


def _sign_bit(bits: Array | int) -> Array:
    return jnp.uint32(1) << (jnp.asarray(bits) - 1).astype(jnp.uint32)


def only(kept: Array | None, x: Array, fill: float) -> Array:
    """Entries that are kept, `fill` for the others."""
    return x if kept is None else jnp.where(kept, x, fill)


def _inside(shape: tuple[int, ...], size: int) -> Array | None:
    """Mask `[N, bucket]` of the first `size` positions, None if that is all: no padding."""
    if math.prod(shape) == size:
        return None
    rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows * shape[1] + columns < size
