"""Layers that the models here are built of.

A convolution or dense layer comes with its normalisation and activation; pooling and flattening are
layers of their own.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.models.layers import Frozen, Layer, Params, Stats, from_function, from_linen
from jfedsl.models.steps import Step
from jfedsl.nn import pooling
from jfedsl.nn.convolution import conv_general_dilated

NORMS = ("none", "group", "batch")


def groups(channels: int) -> int:
    """Groups of a GroupNorm: min(8, channels / 4), lowered to a divisor of `channels`.

    >>> [groups(channels) for channels in (3, 8, 32, 36, 512)]
    [1, 2, 8, 6, 8]
    """
    limit = max(1, min(8, channels // 4))
    return max(g for g in range(1, limit + 1) if channels % g == 0)


def normalise(x: Array, norm: str, groups: int, train: bool) -> Array:
    """Applies the normalisation that `--norm` names, inside a compact linen module.

    Args:
      x: `[B, ..., channels]`.
      norm: one of `NORMS`.
      groups: for GroupNorm only.
      train: whether batch norm uses the statistics of the batch.
    """
    if norm == "group":
        return nn.GroupNorm(groups)(x)
    if norm == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return x


def _conv(features: int, norm: str, size: int = 3, stride: int = 1) -> nn.Conv:
    """A convolution with same padding, and a bias where no normalisation follows."""
    return nn.Conv(
        features,
        (size, size),
        stride,
        use_bias=norm == "none",
        kernel_init=nn.initializers.he_normal(),
        conv_general_dilated=conv_general_dilated,
    )


class Convolution(nn.Module):
    """3x3 convolution with same padding and normalisation.

    Attributes:
      features: output channels.
      norm: one of `NORMS`.
      groups: groups of a GroupNorm.
    """

    features: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, H, W, Cin]` to `[B, H, W, features]`."""
        pooling.check_images(x)
        x = _conv(self.features, self.norm)(x)
        return normalise(x, self.norm, self.groups, train)

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """The computation as steps, from those of the modules that it calls."""
        return list(parts)


class Dense(nn.Module):
    """Dense layer with normalisation.

    Attributes:
      features: output units.
      norm: one of `NORMS`.
      groups: groups of a GroupNorm.
    """

    features: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, D]` to `[B, features]`."""
        init = nn.initializers.he_normal()
        x = nn.Dense(self.features, use_bias=self.norm == "none", kernel_init=init)(x)
        return normalise(x, self.norm, self.groups, train)

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """The computation as steps, from those of the modules that it calls."""
        return list(parts)


class Residual(nn.Module):
    """Basic residual block (arXiv 1512.03385, figure 2) of two 3x3 convolutions.

    Normalisation follows each convolution; where shapes change, the shortcut is a 1x1 convolution
    with normalisation. The last ReLU is the layer's activation.

    Attributes:
      features: output channels.
      inner: channels between the two convolutions; these can be removed.
      stride: of the first convolution and of the shortcut.
      norm: one of `NORMS`.
      groups: groups of the first GroupNorm.
    """

    features: int
    inner: int
    stride: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, H, W, Cin]` to `[B, H / stride, W / stride, features]`."""
        y = _conv(self.inner, self.norm, stride=self.stride)(x)
        y = pooling.relu(normalise(y, self.norm, self.groups, train))
        y = _conv(self.features, self.norm)(y)
        y = normalise(y, self.norm, groups(self.features), train)
        if x.shape != y.shape:
            x = _conv(self.features, self.norm, 1, self.stride)(x)
            x = normalise(x, self.norm, groups(self.features), train)
        return x + y

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """The computation as steps, from those of the modules that it calls."""
        # Each convolution is one module, and its normalisation, if there is any, the next.
        modules = 1 if self.norm == "none" else 2
        main = [*parts[:modules], {"op": "relu"}, *parts[modules : 2 * modules]]
        return [{"op": "residual", "main": main, "shortcut": list(parts[2 * modules :])}]


def _norm_groups(features: int, norm: str) -> int:
    """Groups of the normalisation of a layer; 1 where channels are not normalised in groups."""
    return groups(features) if norm == "group" else 1


def convolution(name: str, features: int, norm: str) -> Layer:
    """A `Convolution` and ReLU as a layer, whose output channels can be removed."""
    count = _norm_groups(features, norm)
    return from_linen(name, Convolution(features, norm, count), pooling.relu, "features", count)


def dense(name: str, features: int, norm: str) -> Layer:
    """A `Dense` and ReLU as a layer, whose units can be removed."""
    count = _norm_groups(features, norm)
    return from_linen(name, Dense(features, norm, count), pooling.relu, "features", count)


def stem(name: str, features: int, norm: str) -> Layer:
    """A `Convolution` and ReLU as a layer before residual blocks.

    None of its channels can be removed, as the blocks add to all of them.
    """
    module = Convolution(features, norm, _norm_groups(features, norm))
    return from_linen(name, module, pooling.relu)


def residual(name: str, features: int, stride: int, norm: str) -> Layer:
    """A `Residual` and ReLU as a layer, whose inner channels can be removed."""
    count = _norm_groups(features, norm)
    module = Residual(features, features, stride, norm, count)
    return from_linen(name, module, pooling.relu, "inner", count)


def logits(classes: int) -> Layer:
    """The last layer: dense, no normalisation, no activation: `[B, D] -> [B, classes]`."""
    return from_linen("logits", nn.Dense(classes))


def padded(layer: Layer, size: int) -> Layer:
    """The layer on images zero-padded on all sides to `size` x `size`; larger images stay.

    Args:
      layer: takes images `[B, H, W, C]`.
      size: least height and width that the layer is given.
    """

    def margins(shape: tuple[int, ...]) -> list[tuple[int, int]]:
        missing = [max(0, size - n) for n in shape[1:3]]
        return [(pixels // 2, pixels - pixels // 2) for pixels in missing]

    def pad(x: Array) -> Array:
        pooling.check_images(x)
        return jnp.pad(x, [(0, 0), *margins(x.shape), (0, 0)])

    def steps(shape: tuple[int, ...], parts: Sequence[Step]) -> list[Step]:
        padded_steps = layer.steps(shape, parts) if layer.steps else [{"op": "custom"}]
        return [{"op": "zero_pad", "padding": margins(shape)}, *padded_steps]

    def init(key: Array, x: Array) -> tuple[Any, ...]:
        return layer.init(key, pad(x))

    def apply(
        params: Params, stats: Stats, x: Array, train: bool, **frozen: Frozen
    ) -> tuple[Array, Stats]:
        return layer.apply(params, stats, pad(x), train, **frozen)

    channels = layer.channels
    if channels is not None:
        resized = channels.resized
        channels = channels._replace(resized=lambda count: padded(resized(count), size))
    # Padding with zeros commutes with no activation that is not 0 at 0, hence keeps_order=False.
    return layer._replace(init=init, apply=apply, keeps_order=False, channels=channels, steps=steps)


def pool(name: str) -> Layer:
    """2x2 max-pooling: `[B, H, W, C] -> [B, H // 2, W // 2, C]`; odd edges are cropped."""
    step = {"op": "max_pool", "window": [2, 2], "strides": [2, 2]}
    return from_function(name, pooling.max_pool, keeps_order=True, step=step)


def average(name: str) -> Layer:
    """Mean over all pixels: `[B, H, W, C] -> [B, C]`."""
    return from_function(name, lambda x: x.mean((1, 2)), step={"op": "mean", "axes": [1, 2]})


def flatten() -> Layer:
    """`[B, ...] -> [B, D]`."""

    def flat(x: Array) -> Array:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return from_function("flatten", flat, step={"op": "flatten"})
