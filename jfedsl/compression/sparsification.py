"""Sparsification by value: top-k, RandTopk, and dropout by standard deviation (SplitFC).

Which entries are sent depends on their values, so that has to be sent too: as a bitmap or as a list
of positions, whichever is shorter.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, stateless
from jfedsl.compression.dropout import scaled, unit_shape
from jfedsl.compression.message import Mask, Message, as_bits, kept_units
from jfedsl.compression.selection import counted_share, largest

ROWS = ("tensor", "example")

# (key, magnitudes float32 [R, N], candidates bool [R, N], counts int32 [R]) -> chosen bool [R, N]
_Choice = Callable[[Array, Array, Array, Array], Array]


def topk(keep: float | Array, each: str = "tensor") -> Compressor:
    """Sends the entries of greatest magnitude, unchanged; of equal entries the first ones.

    Biased, as the others arrive as 0 (see `feedback`). NaN counts as the greatest, so it is sent.

    Args:
      keep: fraction of the entries that is sent, at least one entry; a number or a traced scalar.
      each: whether to select in the whole `tensor`, or in each `example` of a batch `[B, ...]`.
    """

    def choose(key: Array, magnitudes: Array, candidates: Array, counts: Array) -> Array:
        del key
        return largest(_scores(magnitudes, candidates), counts)

    return _sparse(keep, each, choose)


def randtopk(keep: float | Array, alpha: float | Array = 0.1, each: str = "tensor") -> Compressor:
    """RandTopk (arXiv 2305.18469, section 4): k random entries, most of them of the top k.

    k entries are drawn one after the other without replacement. Each draw takes an entry with
    probability proportional to (1 - alpha) / k if it is one of the k of greatest magnitude, and to
    alpha / (N - k) otherwise. Entries are sent unchanged.

    Args:
      keep: fraction of the entries that is sent, at least one entry; a number or a traced scalar.
      alpha: probability that a draw takes an entry outside of the top k, in [0, 1); 0 is top-k.
      each: whether to select in the whole `tensor`, or in each `example` of a batch `[B, ...]`.
    """

    def choose(key: Array, magnitudes: Array, candidates: Array, counts: Array) -> Array:
        top = largest(_scores(magnitudes, candidates), counts)
        k = counts[:, None]
        others = jnp.sum(candidates, 1, jnp.int32, keepdims=True) - counts[:, None]
        weight = jnp.where(
            top,
            (1.0 - alpha) / jnp.maximum(k, 1).astype(jnp.float32),
            alpha / jnp.maximum(others, 1).astype(jnp.float32),
        )
        # The first k arrivals of independent exponential clocks of such rates are such draws.
        arrival = jax.random.exponential(key, magnitudes.shape) / weight
        soonest = jnp.uint32(0x7FFFFFFF) - as_bits(jnp.minimum(arrival, 3e38))
        return largest(jnp.where(candidates, soonest, 0), counts)

    return _sparse(keep, each, choose)


def splitfc(rate: float | Array) -> Compressor:
    """SplitFC's adaptive dropout of features alone (arXiv 2307.10805).

    A feature is one position in all examples of a batch `[B, ...]`. It is kept with probability
    q = N (s + c) / sum(s + c) and scaled by 1 / q. Here s is its standard deviation over the batch
    after each channel is scaled to [0, 1], N is the expected number of kept features, and c >= 0 is
    the least number with which no q exceeds 1.

    A channel is an entry of the last axis at all positions: all pixels of an image `[B, H, W, C]`,
    or all tokens of `[B, T, D]`, since a dense layer of tokens is a convolution of width 1. Where
    there is only one position, as after a dense layer `[B, D]`, the whole vector is one channel:
    scaled one by one, all units would have about the same standard deviation.

    The paper's second half is not implemented: a quantizer with a number of levels for each feature
    and mean values for features of small range. A quantizer chained after this one gives all
    features the same bits, so `splitfc` is SplitFC's dropout and not SplitFC.

    q is rounded to a multiple of 2^-16, in the draw and in the scale. If no feature varies, all q
    are equal. If c is 0, a feature that does not vary is never sent, whatever its value; only the
    other features are unbiased. A feature with NaN or infinity is always sent, and its channel is
    scaled by the range of the finite values.

    Args:
      rate: expected fraction of the features that is left out, in [0, 1).
    """

    def send(key: Array, message: Message) -> Message:
        shape = unit_shape(message.values.shape, "feature")
        spread = _spread(lax.stop_gradient(message.values))
        kept = kept_units(message.kept, shape)
        levels = _levels(jnp.where(True if kept is None else kept, spread, 0.0), kept, rate)
        chosen = draws.uint16(key, shape).astype(jnp.int32) < levels
        scale = draws.LEVELS / jnp.maximum(levels, 1).astype(jnp.float32)
        return scaled(message, Mask(chosen, shared=False), scale)

    return stateless(send)


def _sparse(keep: float | Array, each: str, choose: _Choice) -> Compressor:
    def send(key: Array, message: Message) -> Message:
        shape, kept = message.values.shape, message.kept
        rows = shape[0] if each == "example" else 1
        magnitudes = jnp.abs(lax.stop_gradient(message.values)).reshape(rows, -1)
        flags = None if kept is None else kept.reshape(rows, -1)
        candidates = jnp.ones(magnitudes.shape, bool) if flags is None else flags
        counts, _ = counted_share(flags, magnitudes.shape, keep)
        chosen = choose(key, magnitudes, candidates, counts).reshape(shape)
        return scaled(message, Mask(chosen, False, counts, rows), 1.0)

    return stateless(send)


def _scores(magnitudes: Array, candidates: Array) -> Array:
    """Integers in the order of the magnitudes, NaN last; 0 for what is no candidate.

    The bit patterns of floats that are not negative are in the order of the floats.
    """
    return jnp.where(candidates, as_bits(magnitudes) + 1, 0)


def _spread(values: Array) -> Array:
    """Standard deviation of each feature of `[B, ...]`, its channel scaled to [0, 1].

    It is not finite for a feature with NaN or infinity.
    """
    one_position = math.prod(values.shape[1:-1]) == 1
    axes = None if one_position else tuple(range(values.ndim - 1))
    finite = jnp.isfinite(values)
    low = jnp.min(values, axes, keepdims=True, initial=jnp.inf, where=finite)
    high = jnp.max(values, axes, keepdims=True, initial=-jnp.inf, where=finite)
    scaled = (values - low) / jnp.where(high > low, high - low, 1.0)
    # Relative to the first example, so that the deviation of equal values is exactly 0.
    return jnp.std(scaled - scaled[:1], 0, keepdims=True)


def _levels(spread: Array, kept: Array | None, rate: float | Array) -> Array:
    """2^16 times the probability to keep each feature; 1 where the spread is not finite."""
    flags = jnp.ones(spread.shape, bool) if kept is None else kept
    number = jnp.maximum(jnp.sum(flags, dtype=jnp.int32), 1).astype(jnp.float32)
    finite = jnp.where(jnp.isfinite(spread), spread, 0.0)
    expected, total = (1.0 - rate) * number, jnp.sum(finite)
    surplus = expected * jnp.max(finite) - total
    offset = jnp.maximum(0.0, surplus / jnp.maximum(number - expected, 1e-6))
    offset = jnp.where(total > 0, offset, 1.0)
    share = expected * (finite + offset) / (total + offset * number)
    share = jnp.where(jnp.isfinite(spread), jnp.minimum(share, 1.0), 1.0)
    return jnp.round(share * draws.LEVELS).astype(jnp.int32)
