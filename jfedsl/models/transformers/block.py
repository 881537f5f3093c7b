"""The block of a transformer: attention and an MLP, each with a shortcut and a normalisation.

Vaswani et al. 2017, arXiv 1706.03762; grouped queries: arXiv 2305.13245; gated MLP: arXiv
2002.05202.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.weights import LayerNorm, Projection, RMSNorm
from jfedsl.nn import activations
from jfedsl.nn.rotary import rotate

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": activations.gelu,
    "gelu_new": activations.gelu_tanh,
    "gelu_pytorch_tanh": activations.gelu_tanh,
    "relu": jax.nn.relu,
    "silu": activations.silu,
    "swish": activations.silu,
}


class BlockShape(NamedTuple):
    """What tells the blocks of architectures apart.

    Attributes:
      width: D, of a position.
      heads: of queries.
      key_heads: of keys and values; each serves `heads / key_heads` heads of queries.
      head_width: entries of a head.
      hidden: width inside of the MLP.
      activation: one of `ACTIVATIONS`.
      epsilon: of normalisation.
      gated: whether the MLP multiplies `up` by the activated `gate`, instead of activating `up`.
      biases: whether attention and MLP have biases.
      causal: whether a position sees only itself and those before it.
      norm_first: whether normalisation comes before attention and MLP, inside of the shortcut.
      rms: whether normalisation is by the root mean square alone.
      angles: of rotary positions, see `rotary.frequencies`; None without.
    """

    width: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    activation: str
    epsilon: float
    gated: bool = False
    biases: tuple[bool, bool] = (True, True)
    causal: bool = False
    norm_first: bool = True
    rms: bool = False
    angles: tuple[float, ...] | None = None

    @property
    def projections(self) -> tuple[str, ...]:
        """Short names of the block's projections."""
        return ("q", "k", "v", "o", *(("gate",) if self.gated else ()), "up", "down")


class Attention(nn.Module):
    """Attention of every position to those that it sees.

    Attributes:
      shape: of the block.
      adapter: what is trained.
    """

    shape: BlockShape
    adapter: Adapter

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None) -> Array:
        """Of `x[B, T, D]`, padded beyond `lengths[B]`: the same shape."""
        shape = self.shape

        def project(name: str, heads: int) -> Array:
            projection = Projection(
                heads * shape.head_width, self.adapter.form(name), shape.biases[0], name=name
            )
            return projection(x).reshape(*x.shape[:2], heads, shape.head_width)

        q = project("q", shape.heads)
        k, v = project("k", shape.key_heads), project("v", shape.key_heads)
        if shape.angles is not None:
            angles = np.asarray(shape.angles, np.float32)
            q, k = rotate(q, angles), rotate(k, angles)
        # Rows of padding have some result too; `layers.apply` puts 0 there.
        y = jax.nn.dot_product_attention(
            q, k, v, is_causal=shape.causal, key_value_seq_lengths=lengths
        )
        out = Projection(shape.width, self.adapter.form("o"), shape.biases[0], name="o")
        return out(y.reshape(*x.shape[:2], -1))


class Mlp(nn.Module):
    """Two projections with an activation between them; or three, one of them a gate.

    Attributes:
      shape: of the block.
      adapter: what is trained.
    """

    shape: BlockShape
    adapter: Adapter

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[B, T, D]`: the same shape."""
        shape, activate = self.shape, ACTIVATIONS[self.shape.activation]

        def project(name: str, features: int) -> Projection:
            return Projection(features, self.adapter.form(name), shape.biases[1], name=name)

        up = project("up", shape.hidden)(x)
        inner = activate(project("gate", shape.hidden)(x)) * up if shape.gated else activate(up)
        return project("down", shape.width)(inner)


class Block(nn.Module):
    """Attention, then an MLP, each with a shortcut and a normalisation.

    Attributes:
      shape: sizes and kinds.
      adapter: what is trained.
    """

    shape: BlockShape
    adapter: Adapter

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None) -> Array:
        """Of `x[B, T, D]`, padded beyond `lengths[B]`: the same shape."""
        attention = Attention(self.shape, self.adapter, name="attention")
        mlp = Mlp(self.shape, self.adapter, name="mlp")
        norm1, norm2 = (norm_of(self.shape, self.adapter, name=f"norm{n}") for n in (1, 2))
        if self.shape.norm_first:
            x = x + attention(norm1(x), lengths)
            return x + mlp(norm2(x))
        x = norm1(x + attention(x, lengths))
        return norm2(x + mlp(x))


def norm_of(shape: BlockShape, adapter: Adapter, name: str | None = None) -> nn.Module:
    """The normalisation of an architecture, for its blocks and after the last of them."""
    kind = RMSNorm if shape.rms else LayerNorm
    return kind(adapter.trains_norms, shape.epsilon, name=name)
