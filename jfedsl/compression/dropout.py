"""Random dropout of the entries of a message, unbiased, with a mask both ends draw themselves."""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.compressor import Compressor, Message, stateless


def dropout(rate: float) -> Compressor:
    """Keeps each entry with probability `1 - rate` and scales it by `1 / (1 - rate)`.

    Sender and receiver share the key, so no index travels. Differentiating through `send` applies
    the same mask and scale to the gradient.

    Args:
      rate: the probability that an entry is not sent, in [0, 1).
    """

    def send(key: Array, message: Message) -> Message:
        kept = jax.random.bernoulli(key, 1.0 - rate, message.values.shape)
        if message.kept is not None:
            kept &= message.kept
        values = jnp.where(kept, message.values / (1.0 - rate), 0.0)
        return message.replace(values=values, kept=kept)

    return stateless(send)
