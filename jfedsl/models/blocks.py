"""Layers the zoo is built of: convolution or dense with normalisation and activation; pooling."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.models.layers import Layer, Params, Stats, from_function, from_linen
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


def _normalise(x: Array, norm: str, groups: int, train: bool) -> Array:
    """What `NORMS` lists; `groups` are those of a GroupNorm."""
    if norm == "group":
        return nn.GroupNorm(groups)(x)
    if norm == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return x


def _same(features: int, norm: str, size: int = 3, stride: int = 1) -> nn.Conv:
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
    """3x3 convolution with same padding, normalisation: `[B, H, W, Cin] -> [B, H, W, C]`."""

    features: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, H, W, Cin]` to `[B, H, W, features]`."""
        pooling.check_images(x)
        x = _same(self.features, self.norm)(x)
        return _normalise(x, self.norm, self.groups, train)

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """What it computes, of the steps of the modules it calls."""
        return list(parts)


class Dense(nn.Module):
    """Dense layer with normalisation: `[B, D] -> [B, features]`."""

    features: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, D]` to `[B, features]`."""
        init = nn.initializers.he_normal()
        x = nn.Dense(self.features, use_bias=self.norm == "none", kernel_init=init)(x)
        return _normalise(x, self.norm, self.groups, train)

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """What it computes, of the steps of the modules it calls."""
        return list(parts)


class Residual(nn.Module):
    """Basic residual block (arXiv 1512.03385, figure 2) of two 3x3 convolutions.

    Normalisation follows each convolution; where shapes change, the shortcut is a 1x1 convolution
    with normalisation. The last ReLU is the layer's activation.
    """

    features: int
    inner: int
    stride: int
    norm: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `x[B, H, W, Cin]` to `[B, H / stride, W / stride, features]`."""
        y = _same(self.inner, self.norm, stride=self.stride)(x)
        y = pooling.relu(_normalise(y, self.norm, self.groups, train))
        y = _same(self.features, self.norm)(y)
        y = _normalise(y, self.norm, groups(self.features), train)
        if x.shape != y.shape:
            x = _same(self.features, self.norm, 1, self.stride)(x)
            x = _normalise(x, self.norm, groups(self.features), train)
        return x + y

    def steps(self, parts: Sequence[Step]) -> list[Step]:
        """What it computes, of the steps of the modules it calls."""
        each = 1 if self.norm == "none" else 2  # modules that stand for a convolution
        main = [*parts[:each], {"op": "relu"}, *parts[each : 2 * each]]
        return [{"op": "residual", "main": main, "shortcut": list(parts[2 * each :])}]


def _groups(features: int, norm: str) -> int:
    return groups(features) if norm == "group" else 1


def convolution(name: str, features: int, norm: str) -> Layer:
    """A `Convolution` and ReLU as a layer, whose output channels can be removed."""
    own = _groups(features, norm)
    return from_linen(name, Convolution(features, norm, own), pooling.relu, "features", own)


def dense(name: str, features: int, norm: str) -> Layer:
    """A `Dense` and ReLU as a layer, whose units can be removed."""
    own = _groups(features, norm)
    return from_linen(name, Dense(features, norm, own), pooling.relu, "features", own)


def stem(name: str, features: int, norm: str) -> Layer:
    """A `Convolution` and ReLU as a layer, whose channels all stay: residuals are added to them."""
    return from_linen(name, Convolution(features, norm, _groups(features, norm)), pooling.relu)


def residual(name: str, features: int, stride: int, norm: str) -> Layer:
    """A `Residual` and ReLU as a layer, whose inner channels can be removed."""
    own = _groups(features, norm)
    module = Residual(features, features, stride, norm, own)
    return from_linen(name, module, pooling.relu, "inner", own)


def logits(classes: int) -> Layer:
    """The last layer: dense, no normalisation, no activation: `[B, D] -> [B, classes]`."""
    return from_linen("logits", nn.Dense(classes))


def padded(layer: Layer, size: int) -> Layer:
    """The layer on images zero-padded on all sides to `size` x `size`; larger ones stay."""

    def margins(shape: tuple[int, ...]) -> list[tuple[int, int]]:
        missing = [max(0, size - n) for n in shape[1:3]]
        return [(m // 2, m - m // 2) for m in missing]

    def pad(x: Array) -> Array:
        pooling.check_images(x)
        return jnp.pad(x, [(0, 0), *margins(x.shape), (0, 0)])

    def steps(shape: tuple[int, ...], parts: Sequence[Step]) -> list[Step]:
        inner = layer.steps(shape, parts) if layer.steps else [{"op": "own"}]
        return [{"op": "zero_pad", "padding": margins(shape)}, *inner]

    def init(key: Array, x: Array) -> tuple[Params, Stats]:
        return layer.init(key, pad(x))

    def apply(params: Params, stats: Stats, x: Array, train: bool) -> tuple[Array, Stats]:
        return layer.apply(params, stats, pad(x), train)

    channels = layer.channels
    if channels is not None:
        resized = channels.resized
        channels = channels._replace(resized=lambda count: padded(resized(count), size))
    return layer._replace(init=init, apply=apply, keeps_order=False, channels=channels, steps=steps)


def pool(name: str) -> Layer:
    """2x2 max-pooling; crops odd edges."""
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
