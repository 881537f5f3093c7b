"""Random dropout of parts of a message, unbiased, with a mask that both ends draw."""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, stateless
from jfedsl.compression.message import Mask, Message, intersection, kept_units, unquantized
from jfedsl.compression.selection import counted_share, largest

UNITS = ("entry", "feature", "channel")


def dropout(rate: float | Array, unit: str = "entry", exact: bool = False) -> Compressor:
    """Keeps each unit with probability p = `1 - rate` and scales it by 1 / p.

    p is rounded to a multiple of 2^-16, in the draw and in the scale, and is at least 2^-16.
    Sender and receiver share the key, so no positions are sent. Differentiating through `send`
    applies the same mask and scale to the gradient.

    Args:
      rate: the probability that a unit is not sent, in [0, 1); a number or a traced scalar.
      unit: `entry` of the tensor; `feature`, one position in all examples of a batch `[B, ...]`; or
        `channel` of the last axis, in all examples.
      exact: keep exactly round(p * units) units, at least one, and scale by the inverse of the
        fraction kept.
    """

    def send(key: Array, message: Message) -> Message:
        shape = unit_shape(message.values.shape, unit)
        if exact:
            chosen, share = _exact_number(key, kept_units(message.kept, shape), shape, rate)
        else:
            chosen, share = _independent(key, shape, rate)
        return scaled(message, Mask(chosen), 1.0 / share)

    return stateless(send)


def unit_shape(shape: tuple[int, ...], unit: str) -> tuple[int, ...]:
    """The shape of a flag for each unit of a tensor; 1 along axes that a unit spans."""
    if unit == "entry":
        return shape
    spanned = 1 if unit == "feature" else len(shape) - 1
    return (1,) * spanned + shape[spanned:]


def scaled(message: Message, mask: Mask, scale: Array | float) -> Message:
    """The message with a further mask, its kept entries multiplied by `scale`.

    Raises:
      ValueError: the message is quantized already.
    """
    message = unquantized(message)
    message = message.replace(masks=(*message.masks, mask))
    kept = intersection(message.masks, message.values.shape)
    assert kept is not None
    return message.replace(values=jnp.where(kept, message.values * scale, 0.0))


def _independent(key: Array, shape: tuple[int, ...], rate: float | Array) -> tuple[Array, Array]:
    """Draws units independently; returns flags of the kept ones and their probability."""
    levels = jnp.maximum(1, jnp.round((1.0 - rate) * draws.LEVELS)).astype(jnp.int32)
    chosen = draws.uint16(key, shape).astype(jnp.int32) < levels
    return chosen, levels.astype(jnp.float32) / draws.LEVELS


def _exact_number(
    key: Array, candidates: Array | None, shape: tuple[int, ...], rate: float | Array
) -> tuple[Array, Array]:
    """Draws a fixed number of the candidates; returns flags of the kept ones and their share."""
    # Shifted, so that adding 1 to the score of a candidate cannot overflow.
    scores = jax.random.bits(key, shape).reshape(1, -1) >> 1
    flags = None if candidates is None else candidates.reshape(1, -1)
    counts, among = counted_share(flags, scores.shape, 1.0 - rate)
    if flags is not None:
        scores = jnp.where(flags, scores + 1, 0)
    share = counts.astype(jnp.float32) / jnp.maximum(among, 1).astype(jnp.float32)
    return largest(scores, counts).reshape(shape), jnp.where(counts > 0, share, 1.0)[0]
