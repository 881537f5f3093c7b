"""First layers of transformers: token ids, or images in patches, become sequences of vectors."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.weights import Embedding, LayerNorm, Projection, weight


class TokenEmbedding(nn.Module):
    """Vectors of token ids, with those of their positions added if there are any.

    Attributes:
      vocabulary: number of tokens.
      width: D, of a vector.
      adapter: what is trained.
      positions: how many positions have a vector; 0 where positions are told in another way.
      types: kinds of segments, of which all positions are the first; 0 for none.
      epsilon: of the normalisation of the sum; None for none.
    """

    vocabulary: int
    width: int
    adapter: Adapter
    positions: int = 0
    types: int = 0
    epsilon: float | None = None

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Of int32 `[B, T]`: `[B, T, D]`."""
        form = self.adapter.form("")
        x = Embedding(self.vocabulary, self.width, form, name="tokens")(ids)
        if self.positions:
            places = jnp.arange(ids.shape[1])[None]
            x += Embedding(self.positions, self.width, form, name="positions")(places)
        if self.types:
            x += Embedding(self.types, self.width, form, name="types")(jnp.zeros_like(ids[:1]))
        if self.epsilon is None:
            return x
        return LayerNorm(self.adapter.trains_norms, self.epsilon, name="norm")(x)


class PatchEmbedding(nn.Module):
    """Vectors of the patches of an image, and one more before them for the whole image.

    Images of another size are resized. One channel is repeated where the model takes several.

    Attributes:
      image: height and width that the model takes.
      channels: that it takes.
      patch: height and width of a patch.
      width: D, of a vector.
      adapter: what is trained.
    """

    image: tuple[int, int]
    channels: int
    patch: tuple[int, int]
    width: int
    adapter: Adapter

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `[B, H, W, C]`: `[B, 1 + patches, D]`."""
        form, normal = self.adapter.form(""), nn.initializers.normal(0.02)
        patches = _patches(_fitted(x, self.image, self.channels), self.patch)
        projected = Projection(self.width, form, name="patches")(patches)
        count = patches.shape[1] + 1
        whole = weight(self, form.trained, "whole", normal, (1, 1, self.width)).astype(x.dtype)
        places = weight(self, form.trained, "positions", normal, (1, count, self.width))
        whole = jnp.broadcast_to(whole, (x.shape[0], 1, self.width))
        return jnp.concatenate([whole, projected], axis=1) + places.astype(x.dtype)


def _fitted(x: Array, image: tuple[int, int], channels: int) -> Array:
    """Images `[B, H, W, C]` in the size and with the channels that a model takes."""
    if x.ndim != 4 or x.shape[-1] not in (1, channels):
        taken = "1" if channels == 1 else f"1 or {channels}"
        raise ValueError(f"images [H, W, C] with {taken} channels are needed")
    if x.shape[1:3] != image:
        x = jax.image.resize(x, (x.shape[0], *image, x.shape[3]), "bilinear")
    return jnp.broadcast_to(x, (*x.shape[:3], channels))


def _patches(x: Array, patch: tuple[int, int]) -> Array:
    """Patches of `[B, H, W, C]`, row by row: `[B, N, height * width * C]`."""
    batch, height, width, channels = x.shape
    rows, columns = height // patch[0], width // patch[1]
    tiled = x.reshape(batch, rows, patch[0], columns, patch[1], channels)
    return tiled.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


class Pool(nn.Module):
    """One vector of a sequence.

    Attributes:
      kind: "mean" over its positions, the "first" of them, or the "last".
    """

    kind: str

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None) -> Array:
        """Of `x[B, T, D]`, 0 beyond `lengths[B]`: `[B, D]`."""
        if self.kind == "first":
            return x[:, 0]
        ends: Any = jnp.full(x.shape[0], x.shape[1]) if lengths is None else lengths
        ends = jnp.maximum(ends, 1)[:, None]
        if self.kind == "mean":
            return jnp.sum(x, axis=1) / ends.astype(x.dtype)
        return jnp.take_along_axis(x, ends[:, :, None] - 1, axis=1)[:, 0]
