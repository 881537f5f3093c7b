"""Random dropout of the entries of a message, unbiased, with a mask both ends draw themselves."""

import jax.numpy as jnp
from jax import Array

from jfedsl.compression import draws
from jfedsl.compression.compressor import Compressor, Message, stateless


def dropout(rate: float) -> Compressor:
    """Keeps each entry with probability p = `1 - rate` and scales it by 1 / p.

    p is rounded to a multiple of 2^-16, in the draw and the scale alike, and is 2^-16 at least.
    Sender and receiver share the key, so no index travels. Differentiating through `send` applies
    the same mask and scale to the gradient.

    Args:
      rate: the probability that an entry is not sent, in [0, 1).
    """
    levels = max(1, round((1.0 - rate) * draws.LEVELS))
    share = levels / draws.LEVELS

    def send(key: Array, message: Message) -> Message:
        kept = draws.uint16(key, message.values.shape).astype(jnp.int32) < levels
        if message.kept is not None:
            kept &= message.kept
        values = jnp.where(kept, message.values / share, 0.0)
        return message.replace(values=values, kept=kept)

    return stateless(send)
