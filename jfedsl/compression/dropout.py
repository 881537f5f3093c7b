"""Random dropout of parts of a message, unbiased, with a mask both ends draw themselves."""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, stateless
from jfedsl.compression.message import Mask, Message, still_open, together, unwritten
from jfedsl.compression.selection import counted_share, largest

UNITS = ("entry", "feature", "channel")


def dropout(rate: float | Array, unit: str = "entry", exact: bool = False) -> Compressor:
    """Keeps each unit with probability p = `1 - rate` and scales it by 1 / p.

    p is rounded to a multiple of 2^-16, in the draw and the scale alike, and is 2^-16 at least.
    Sender and receiver share the key, so no index travels. Differentiating through `send` applies
    the same mask and scale to the gradient.

    Args:
      rate: the probability that a unit is not sent, in [0, 1); a number or a traced scalar.
      unit: an entry of the tensor; a feature, which is the same position in all examples of a
        batch `[B, ...]`; or a channel of the last axis, in all examples.
      exact: keep exactly the nearest number to p times the units, one at least, and scale by what
        that comes to.
    """

    def send(key: Array, message: Message) -> Message:
        shape = unit_shape(message.values.shape, unit)
        if exact:
            chosen, share = _exactly(key, still_open(message.kept, shape), shape, rate)
        else:
            chosen, share = _each(key, shape, rate)
        return scaled(message, Mask(chosen), 1.0 / share)

    return stateless(send)


def unit_shape(shape: tuple[int, ...], unit: str) -> tuple[int, ...]:
    """The shape of a flag for each unit of a tensor; 1 along axes that a unit spans."""
    if unit == "entry":
        return shape
    spanned = 1 if unit == "feature" else len(shape) - 1
    return (1,) * spanned + shape[spanned:]


def scaled(message: Message, mask: Mask, scale: Array | float) -> Message:
    """The message without what the mask lacks, the rest multiplied by `scale`.

    Raises:
      ValueError: the message is quantized.
    """
    message = unwritten(message)
    message = message.replace(masks=(*message.masks, mask))
    kept = together(message.masks, message.values.shape)
    assert kept is not None
    return message.replace(values=jnp.where(kept, message.values * scale, 0.0))


def _each(key: Array, shape: tuple[int, ...], rate: float | Array) -> tuple[Array, Array]:
    """Units kept independently, and the share that is."""
    levels = jnp.maximum(1, jnp.round((1.0 - rate) * draws.LEVELS)).astype(jnp.int32)
    chosen = draws.uint16(key, shape).astype(jnp.int32) < levels
    return chosen, levels.astype(jnp.float32) / draws.LEVELS


def _exactly(
    key: Array, open_: Array | None, shape: tuple[int, ...], rate: float | Array
) -> tuple[Array, Array]:
    """Just so many units kept of those still open, and the share that is."""
    scores = jax.random.bits(key, shape).reshape(1, -1) >> 1
    flags = None if open_ is None else open_.reshape(1, -1)
    counts, among = counted_share(flags, scores.shape, 1.0 - rate)
    if flags is not None:
        scores = jnp.where(flags, scores + 1, 0)
    share = counts.astype(jnp.float32) / jnp.maximum(among, 1).astype(jnp.float32)
    return largest(scores, counts).reshape(shape), jnp.where(counts > 0, share, 1.0)[0]
