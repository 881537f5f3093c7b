"""A small model with frozen kernels and trained low-rank adapters beside them."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.models import blocks, layers
from jfedsl.models.layers import Frozen, Layer, Model
from jfedsl.models.registry import ModelEntry

WIDTHS = (48, 40, 56)  # no other array of a run has these sizes together
INPUTS = 64


class Adapted(nn.Module):
    """x W + x A B with W frozen; W is of `dtype`, int8 being hundredths."""

    features: int
    dtype: Any = jnp.float32
    rank: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[B, D]`."""

        def fresh() -> Array:
            shape = (x.shape[-1], self.features)
            w = nn.initializers.lecun_normal()(self.make_rng("params"), shape)
            return jnp.round(100 * w).astype(jnp.int8) if self.quantized else w.astype(self.dtype)

        w = self.variable("frozen", "kernel", fresh).value.astype(x.dtype)
        w = 0.01 * w if self.quantized else w
        down = nn.Dense(self.rank, use_bias=False, name="down")(x)
        return x @ w + nn.Dense(self.features, use_bias=False, name="up")(down)

    @property
    def quantized(self) -> bool:
        """Whether the kernel is of whole numbers."""
        return jnp.issubdtype(self.dtype, jnp.integer)


def adapted(classes: int, norm: str = "none", dtype: Any = jnp.float32) -> Model:
    """Three layers with frozen kernels and a head without.

    The cut is after the second one, so that its frozen kernel has a part in clients' gradients.
    """
    del norm
    adapters = (
        layers.from_linen(f"adapted{n}", Adapted(width, dtype), nn.relu)
        for n, width in enumerate(WIDTHS, 1)
    )
    return blocks.flatten(), *adapters, blocks.logits(classes)


class Held(nn.Module):
    """x W with W frozen."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[B, D]`."""

        def fresh() -> Array:
            shape = (x.shape[-1], self.features)
            return nn.initializers.lecun_normal()(self.make_rng("params"), shape)

        return x @ self.variable("frozen", "kernel", fresh).value.astype(x.dtype)


def held(widths: tuple[int, ...], frozen: int, classes: int = 10) -> Model:
    """Layers of which the first few have no parameters but frozen kernels, and a head."""
    hidden = (
        layers.from_linen(
            f"held{n}", Held(width) if n <= frozen else nn.Dense(width, use_bias=False), nn.relu
        )
        for n, width in enumerate(widths, 1)
    )
    head = layers.from_linen("head", nn.Dense(classes, use_bias=False))
    return blocks.flatten(), *hidden, head


def with_constants(model: Model, frozen: Frozen) -> Model:
    """The model with its frozen variables written into its code: it has none any more."""

    def plain(layer: Layer, frozen: Any) -> Layer:
        init = layer.init
        return layers.bound(layer, frozen)._replace(init=lambda key, x: init(key, x)[:2])

    return tuple(plain(*pair) for pair in zip(model, frozen, strict=True))


def entry(model: Model) -> ModelEntry:
    """The model for the table `MODELS`."""
    return ModelEntry(lambda classes, norm: model, "adapted2")
