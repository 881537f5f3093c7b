"""Stochastic, unbiased quantizers, one scale for each bucket of consecutive entries.

A tensor is flattened and cut into buckets of consecutive positions of the dense array; a bucket's
statistics use its kept entries only, and a bucket without kept entries sends no header. NaN or
infinity makes its whole bucket NaN: it is never hidden. Draws have 16 bits, so that an entry's
probability of being rounded up is off by at most 2^-17.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, Message, stateless, straight_through

# (values[N, bucket], kept[N, bucket] or None for all, uniform draws[N, bucket]) -> quantized values
_Rounding = Callable[[Array, Array | None, Array], Array]


def uniform(bits: int, bucket_size: int = 512) -> Compressor:
    """Stochastic rounding to `2^bits` evenly spaced values between a bucket's least and greatest.

    E[Q(x)] = x (to step / 2^17) and E||Q(x) - x||^2 <= d * step^2 / 4, where
    step = (greatest - least) / (2^bits - 1).
    Header: 64 bits a bucket.

    Args:
      bits: bits of an entry, 1 to 16.
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
    """
    top = 2.0**bits - 1.0

    def quantize(x: Array, kept: Array | None, u: Array) -> Array:
        low = jnp.min(_only(kept, x, jnp.inf), axis=1, keepdims=True)
        high = jnp.max(_only(kept, x, -jnp.inf), axis=1, keepdims=True)
        step = (high - low) / top
        # min(floor + carry, top), not floor(t + u): in float32 that overflows the top code.
        index = _round_stochastically((x - low) / jnp.where(step == 0, 1.0, step), u, top)
        return low + step * index

    return _bucketed(quantize, bits, 64, bucket_size)


def qsgd(bits: int, bucket_size: int = 512) -> Compressor:
    """QSGD (arXiv 1610.02132, section 3.1): a sign and s = 2^(bits-1) - 1 levels of the L2 norm.

    E[Q(x)] = x (to a level / 2^17) and E||Q(x) - x||^2 <= min(d / s^2, sqrt(d) / s) * ||x||^2.
    Header: 32 bits a bucket. Entries below norm / (s * 2^17) are always sent as 0.

    Args:
      bits: bits of an entry with its sign, 2 to 16.
      bucket_size: entries in a bucket; 0 makes the whole tensor one bucket.
    """
    top = 2.0 ** (bits - 1) - 1.0

    def quantize(x: Array, kept: Array | None, u: Array) -> Array:
        x = _only(kept, x, 0.0)
        peak = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        # Squares of x / peak neither overflow nor vanish.
        scaled = x / jnp.where(peak == 0, 1.0, peak)
        norm = jnp.sqrt(jnp.sum(scaled * scaled, axis=1, keepdims=True))
        index = _round_stochastically(
            jnp.abs(scaled) / jnp.where(norm == 0, 1.0, norm) * top, u, top
        )
        return jnp.sign(x) * (norm * peak) * (index / top)

    return _bucketed(quantize, bits, 32, bucket_size)


def _round_stochastically(t: Array, u: Array, top: float) -> Array:
    """Rounds t in [0, top] down or up, up with probability its fractional part."""
    floor = jnp.minimum(jnp.floor(t), top)
    return jnp.minimum(floor + (u < t - floor).astype(t.dtype), top)


def _bucketed(quantize: _Rounding, bits: int, header_bits: int, bucket_size: int) -> Compressor:
    def send(key: Array, message: Message) -> Message:
        shape, size = message.values.shape, message.values.size
        width = min(bucket_size or size, size) or 1
        x = _to_buckets(lax.stop_gradient(message.values), width)
        if x.shape[0] * header_bits >= 2**31:
            raise ValueError(f"{x.shape[0]} buckets: their headers do not fit the bit counter")
        if message.kept is None:
            # A mask of ones would be folded into a constant as large as the tensor, in seconds.
            kept = _inside(x.shape, size) if x.size > size else None
            buckets = jnp.int32(x.shape[0])
        else:
            kept = _to_buckets(message.kept, width)
            buckets = jnp.sum(jnp.any(kept, axis=1), dtype=jnp.int32)
        # The middle of each draw's interval: as often up as down where 16 bits cannot tell, and an
        # entry that rounding lifted a little above its level stays there.
        u = (draws.uint16(key, x.shape).astype(x.dtype) + 0.5) / draws.LEVELS
        quantized = _only(kept, quantize(x, kept, u), 0.0)
        values = straight_through(message.values, quantized.reshape(-1)[:size].reshape(shape))
        return Message(values, message.kept, bits, buckets * header_bits)

    return stateless(send)


def _only(kept: Array | None, x: Array, fill: float) -> Array:
    return x if kept is None else jnp.where(kept, x, fill)


def _inside(shape: tuple[int, ...], size: int) -> Array:
    """Mask `[N, bucket]` of the first `size` positions; the rest is padding."""
    rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows * shape[1] + columns < size


def _to_buckets(x: Array, width: int) -> Array:
    flat = jnp.pad(x.reshape(-1), (0, -x.size % width))
    return flat.reshape(-1, width)


QUANTIZERS = {"uniform": uniform, "qsgd": qsgd}
LEAST_BITS = {"uniform": 1, "qsgd": 2}
