"""First layers of models that take whole numbers, such as token ids, in sequences of any length.

A batch of sequences has one shape `[B, T]`, so shorter ones end with padding. What a model computes
of a sequence must not depend on how much padding that is.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jfedsl.models.layers import Frozen, Layer, Params, Stats

PADDING = -1  # in the place of a token id


def with_integer_inputs(layer: Layer) -> Layer:
    """The first layer of a model whose inputs are integers, such as token ids.

    Inputs arrive as int32; as float32, which is exact up to 2^24 in magnitude, where only shapes
    matter or clients have no layers. They are cast to int32 here.
    """

    def init(key: Array, x: Array) -> tuple[Any, ...]:
        return layer.init(key, x.astype(jnp.int32))

    def apply(
        params: Params, stats: Stats, x: Array, train: bool, **given: Frozen
    ) -> tuple[Array, Stats]:
        return layer.apply(params, stats, x.astype(jnp.int32), train, **given)

    channels = layer.channels
    if channels is not None:
        resized = channels.resized
        channels = channels._replace(resized=lambda size: with_integer_inputs(resized(size)))
    return layer._replace(init=init, apply=apply, channels=channels, integer_inputs=True)


def padded(layer: Layer) -> Layer:
    """The first layer of a model of token ids `[B, T]` in which -1 is padding, at the end.

    The layer itself is given 0 in the place of padding. Its outputs there, and those of the layers
    after it, become 0; see `layers.apply`. Layers that look at several positions, such as attention
    or a mean over positions, take `lengths` to leave padding out.

    >>> from flax import linen as nn
    >>> from jfedsl.models.layers import from_linen
    >>> embed = padded(from_linen("embed", nn.Embed(1000, 32)))
    >>> embed.lengths(jnp.array([[7, 12, -1, -1], [5, 0, 3, 9]])).tolist()
    [2, 4]
    """

    def init(key: Array, x: Array) -> tuple[Any, ...]:
        return layer.init(key, jnp.maximum(x, 0))

    def apply(
        params: Params, stats: Stats, x: Array, train: bool, **given: Frozen
    ) -> tuple[Array, Stats]:
        return layer.apply(params, stats, jnp.maximum(x, 0), train, **given)

    return layer._replace(init=init, apply=apply, lengths=_lengths)


def _lengths(ids: Array) -> Array:
    return jnp.sum(ids != PADDING, axis=1, dtype=jnp.int32)
