"""What messages are expected to take before any is sent."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.compression.message import message_bytes
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.protocol.exchange import send_smashed
from jfedsl.protocol.state import Client, Links, Scheme
from jfedsl.protocol.traffic import label_bits, smashed_shape


def expected_bits(scheme: Scheme, key: Array, image: tuple[int, ...]) -> Array:
    """Bits that clients send up in an exchange, float32 `[layouts, C]`.

    Counted on one message of noise in each layout of the pruner: what is dropped at random varies
    little, in activations of thousands of entries.

    Args:
      scheme: of the run.
      key: run key.
      image: shape of an input.
    """
    shapes = jax.eval_shape(
        lambda x: layers.init(scheme.model[: scheme.cut], key, x), jnp.zeros((1, *image))
    )
    shape = smashed_shape(scheme, shapes.params, shapes.stats, image)
    first = [
        int(np.argmax(scheme.pruner.layout == row)) for row in range(len(scheme.pruner.layouts))
    ]

    def one(start: Array, number: Array) -> Array:
        params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes.params)
        masks = scheme.pruner.masks(
            scheme.pruner.init(params), params, fold(key, Purpose.PRUNING), start, number
        )
        noise = jax.random.normal(fold(key, Purpose.DEVICES, 1, number), shape.shape)
        values = noise.astype(shape.dtype)
        link = scheme.links.smashed(0).init(jnp.zeros_like(values))
        client = Client(
            number, params, (), masks, None, Links(link, None, None, None, None), None, number
        )
        message = send_smashed(scheme, client, values, fold(key, Purpose.DEVICES, 2, number))[1]
        return 8.0 * message_bytes([message], label_bits(scheme))

    every = jnp.arange(scheme.clients)
    starts = jnp.asarray(first, jnp.int32)
    return jax.jit(lambda: lax.map(lambda s: lax.map(lambda n: one(s, n), every), starts))()
