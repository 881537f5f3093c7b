"""Sending what is large or varies: top-k, RandTopk, and dropout by standard deviation.

Which entries are sent depends on their values, so the receiver has to be told: by a bitmap or a
list of positions, the shorter.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, stateless
from jfedsl.compression.dropout import scaled, unit_shape
from jfedsl.compression.message import Mask, Message, as_bits, still_open
from jfedsl.compression.selection import counted_share, largest

ROWS = ("tensor", "example")

# (key, magnitudes float32 [R, N], open bool [R, N], counts int32 [R]) -> bool [R, N]
_Choice = Callable[[Array, Array, Array, Array], Array]


def topk(keep: float | Array, each: str = "tensor") -> Compressor:
    """Sends the entries of greatest magnitude, unchanged; of equal ones those that come first.

    Biased: the rest is 0 (see `feedback`). NaN counts as greater than everything, so it is sent.

    Args:
      keep: fraction of the entries that is sent, one at least; a number or a traced scalar.
      each: among the whole tensor, or in each example of a batch `[B, ...]`.
    """

    def choose(key: Array, magnitudes: Array, open_: Array, counts: Array) -> Array:
        del key
        return largest(_scores(magnitudes, open_), counts)

    return _sparse(keep, each, choose)


def randtopk(keep: float | Array, alpha: float | Array = 0.1, each: str = "tensor") -> Compressor:
    """RandTopk (arXiv 2305.18469, section 4): as many entries as top-k, some of them others.

    k entries are drawn one after the other without replacement; each draw takes one of the k of
    greatest magnitude with probability in proportion to (1 - alpha) / k, one of the N - k others
    to alpha / (N - k). What is sent is sent unchanged.

    Args:
      keep: fraction of the entries that is sent, as in `topk`.
      alpha: of others, in [0, 1); 0 is top-k.
      each: as in `topk`.
    """

    def choose(key: Array, magnitudes: Array, open_: Array, counts: Array) -> Array:
        top = largest(_scores(magnitudes, open_), counts)
        k, others = counts[:, None], jnp.sum(open_, 1, jnp.int32, keepdims=True) - counts[:, None]
        weight = jnp.where(
            top,
            (1.0 - alpha) / jnp.maximum(k, 1).astype(jnp.float32),
            alpha / jnp.maximum(others, 1).astype(jnp.float32),
        )
        # The first k arrivals of exponential clocks at these rates are such draws.
        arrival = jax.random.exponential(key, magnitudes.shape) / weight
        soonest = jnp.uint32(0x7FFFFFFF) - as_bits(jnp.minimum(arrival, 3e38))
        return largest(jnp.where(open_, soonest, 0), counts)

    return _sparse(keep, each, choose)


def splitfc(rate: float | Array) -> Compressor:
    """SplitFC's adaptive dropout of features alone (arXiv 2307.10805).

    A feature is one position in all examples of a batch `[B, ...]`. It is kept with probability
    q = N (s + c) / sum(s + c), where s is the standard deviation over the batch after each channel
    is scaled to [0, 1], N the number of features to expect, and c >= 0 the least with which no q
    exceeds 1; kept ones are scaled by 1 / q.

    A channel is an entry of the last axis at all positions: of all pixels of an image
    `[B, H, W, C]`, and of all tokens of `[B, T, D]`, since a dense layer of tokens is a convolution
    of width 1. Where there is only one position, as after a dense layer `[B, D]`, the whole vector
    is one channel: scaled by itself every unit would deviate about as much as every other.

    The paper's second half is missing: its quantizer, with a number of levels for each feature and
    mean values for features of small range. A quantizer chained after this gives all features the
    same bits, so a comparison with `splitfc` is one with SplitFC's dropout, not with SplitFC.

    q is rounded to a multiple of 2^-16, in the draw and the scale alike. Where the features do not
    vary at all, all q are the same; but where c is 0, a feature that does not vary is never sent,
    whatever its value: unbiased is what is said of the others. A feature with NaN or infinity in it
    is always sent, and its channel is scaled by the range of the other values.

    Args:
      rate: fraction of the features that is left out on average, in [0, 1).
    """

    def send(key: Array, message: Message) -> Message:
        shape = unit_shape(message.values.shape, "feature")
        spread = _spread(lax.stop_gradient(message.values))
        open_ = still_open(message.kept, shape)
        levels = _levels(jnp.where(True if open_ is None else open_, spread, 0.0), open_, rate)
        chosen = draws.uint16(key, shape).astype(jnp.int32) < levels
        scale = draws.LEVELS / jnp.maximum(levels, 1).astype(jnp.float32)
        return scaled(message, Mask(chosen, shared=False), scale)

    return stateless(send)


def _sparse(keep: float | Array, each: str, choose: _Choice) -> Compressor:
    def send(key: Array, message: Message) -> Message:
        shape, kept = message.values.shape, message.kept
        rows = shape[0] if each == "example" else 1
        magnitudes = jnp.abs(lax.stop_gradient(message.values)).reshape(rows, -1)
        open_ = jnp.ones(magnitudes.shape, bool) if kept is None else kept.reshape(rows, -1)
        known = None if kept is None else open_
        counts, _ = counted_share(known, magnitudes.shape, keep)
        chosen = choose(key, magnitudes, open_, counts).reshape(shape)
        return scaled(message, Mask(chosen, False, counts, rows), 1.0)

    return stateless(send)


def _scores(magnitudes: Array, open_: Array) -> Array:
    """Magnitudes in the order of their bits, which NaN ends; 0 for what cannot be chosen."""
    return jnp.where(open_, as_bits(magnitudes) + 1, 0)


def _spread(values: Array) -> Array:
    """Standard deviation of each feature of `[B, ...]`, its channel scaled to [0, 1].

    That of a feature with NaN or infinity in it is no number.
    """
    one_position = math.prod(values.shape[1:-1]) == 1
    axes = None if one_position else tuple(range(values.ndim - 1))
    finite = jnp.isfinite(values)
    low = jnp.min(values, axes, keepdims=True, initial=jnp.inf, where=finite)
    high = jnp.max(values, axes, keepdims=True, initial=-jnp.inf, where=finite)
    scaled = (values - low) / jnp.where(high > low, high - low, 1.0)
    # From the first example on, so that equal values deviate by exactly 0.
    return jnp.std(scaled - scaled[:1], 0, keepdims=True)


def _levels(spread: Array, open_: Array | None, rate: float | Array) -> Array:
    """Probabilities to keep each feature, of 2^16; a spread that is no number keeps it."""
    flags = jnp.ones(spread.shape, bool) if open_ is None else open_
    number = jnp.maximum(jnp.sum(flags, dtype=jnp.int32), 1).astype(jnp.float32)
    finite = jnp.where(jnp.isfinite(spread), spread, 0.0)
    expected, total = (1.0 - rate) * number, jnp.sum(finite)
    surplus = expected * jnp.max(finite) - total
    offset = jnp.maximum(0.0, surplus / jnp.maximum(number - expected, 1e-6))
    offset = jnp.where(total > 0, offset, 1.0)
    share = expected * (finite + offset) / (total + offset * number)
    share = jnp.where(jnp.isfinite(spread), jnp.minimum(share, 1.0), 1.0)
    return jnp.round(share * draws.LEVELS).astype(jnp.int32)
