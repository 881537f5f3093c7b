"""Arithmetic of layers against counts made by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jfedsl.models import blocks, layers
from jfedsl.models.flops import layer_flops, product_flops
from jfedsl.models.layers import Layer, Model, Variables
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.nn import convolution, pooling


def flops(model: Model, image: tuple[int, ...]) -> list[tuple[int, int]]:
    shapes = jax.eval_shape(
        lambda x: layers.init(model, jax.random.key(0), x), jnp.zeros((1, *image))
    )
    return product_flops(model, shapes.params, shapes.stats, image)


def test_convolutions_count_every_tap_of_every_pixel() -> None:
    first, pool, second, *_ = flops(small(10)[:4], (32, 32, 3))
    assert first == (2 * 9 * 3 * 16 * 32 * 32,) * 2, "no gradient by the images"
    assert pool == (0, 0)
    forward = 2 * 9 * 16 * 32 * 16 * 16
    assert second == (forward, 2 * forward)


def test_a_strided_block_with_a_shortcut() -> None:
    block = flops(resnet18(10, "group"), (32, 32, 3))[3]
    forward = 2 * 16 * 16 * (9 * 64 * 128 + 9 * 128 * 128 + 64 * 128)
    assert block == (forward, 2 * forward)


def test_the_published_arithmetic_of_resnet18_for_small_images() -> None:
    # 0.56 billion multiply-adds.
    assert round(sum(f for f, _ in flops(resnet18(10, "group"), (32, 32, 3))) / 2e9, 2) == 0.56


# As XLA counts them, batch by batch

ELEMENTWISE = 4  # FLOPs for an entry of an output at most: bias, activation, and their gradients


def counted(model: Model, shape: tuple[int, ...], trained_input: bool = False) -> np.ndarray:
    """FLOPs of forward and backward pass, `[L, 2]`, on a batch of this shape."""
    return counted_of(model, shapes_of(model, shape), shape, trained_input)


def shapes_of(model: Model, shape: tuple[int, ...]) -> Variables:
    x = jnp.zeros(shape)
    return jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


def counted_of(
    model: Model, shapes: Variables, shape: tuple[int, ...], trained_input: bool
) -> np.ndarray:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return layer_flops(model, shapes.params, shapes.stats, x, trained_input)


def taps(size: int, kernel: int, stride: int) -> int:
    """Pairs of an output and a tap inside of a line of pixels, with same padding."""
    outputs = -(-size // stride)
    before = max(0, (outputs - 1) * stride + kernel - size) // 2
    at = stride * np.arange(outputs)[:, None] + np.arange(kernel) - before
    return int(((at >= 0) & (at < size)).sum())


def strided(features: int, stride: int, bias: bool = False) -> Layer:
    convolve = convolution.conv_general_dilated
    module = nn.Conv(features, (3, 3), stride, use_bias=bias, conv_general_dilated=convolve)
    return layers.from_linen("conv", module)


# Among them maps smaller than the kernel, channels that fill no vector, and many channels.
SHAPES = [
    ((2, 8, 8, 3), 16), ((3, 2, 2, 5), 7), ((2, 1, 1, 16), 8), ((4, 7, 6, 4), 4),
    ((16, 8, 8, 128), 256),
]  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_convolutions_count_only_taps_inside_of_the_image(
    shape: tuple[int, ...], features: int, stride: int
) -> None:
    batch, height, width, channels = shape
    products = batch * channels * features * taps(height, 3, stride) * taps(width, 3, stride)
    model = (strided(features, stride),)
    assert counted(model, shape).tolist() == [[2 * products, 2 * products]]
    ((forward, backward),) = counted(model, shape, trained_input=True)
    assert (forward, backward) == (2 * products, 4 * products)


@pytest.mark.parametrize(("shape", "features"), SHAPES)
@pytest.mark.parametrize("trained_input", [False, True])
def test_bias_and_relu_count_little(
    shape: tuple[int, ...], features: int, trained_input: bool
) -> None:
    batch, height, width, channels = shape
    products = 2 * batch * channels * features * taps(height, 3, 1) * taps(width, 3, 1)
    model = (blocks.convolution("conv", features, "none"),)
    ((forward, backward),) = counted(model, shape, trained_input)
    entries = batch * height * width * features
    assert 0 < forward - products <= ELEMENTWISE * entries
    assert 0 < backward - (1 + trained_input) * products <= ELEMENTWISE * entries


@pytest.mark.parametrize("batch", [1, 5])
def test_dense_layers(batch: int) -> None:
    first, second, last = counted(mlp(10), (batch, 8, 8, 3))[1:]
    inputs, units = 8 * 8 * 3, (256, 128)
    # A bias and a ReLU add one each to every output.
    assert first[0] == batch * units[0] * (2 * inputs + 2)
    assert second[0] == batch * units[1] * (2 * units[0] + 2)
    assert last[0] == batch * 10 * (2 * units[1] + 1)
    for (_, backward), products, entries in [
        (first, inputs * units[0], units[0]),
        (second, 2 * units[0] * units[1], units[1]),
        (last, 2 * units[1] * 10, 10),
    ]:
        assert 0 <= backward - 2 * batch * products <= ELEMENTWISE * batch * entries


def test_a_batch_takes_as_many_times_an_example() -> None:
    one, many = (counted(small(10)[:5], (batch, 32, 32, 3)) for batch in (1, 6))
    np.testing.assert_allclose(many[:, 0], 6 * one[:, 0])
    np.testing.assert_allclose(many[:, 1], 6 * one[:, 1], rtol=0.01)  # sums over the batch


def test_fewer_channels_take_less() -> None:
    whole = small(10, "group")[:4]
    assert whole[0].channels is not None and whole[2].channels is not None
    first = whole[0].channels.resized(8)
    half = (first, whole[1], whole[2].channels.resized(16), whole[3])
    there, narrow, entry = (counted(m, (4, 32, 32, 3)) for m in (whole, half, (first, *whole[1:])))
    assert np.all(narrow < there) and np.all(narrow > 0)
    assert np.all(entry[:3] < there[:3]) and np.all(entry[3] == there[3])
    np.testing.assert_allclose(narrow[[0, 1, 3]], there[[0, 1, 3]] / 2, rtol=0.01)
    np.testing.assert_allclose(narrow[2], there[2] / 4, rtol=0.03)


@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_counts_do_not_depend_on_fast_forms(
    shape: tuple[int, ...], features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Model = (blocks.convolution("conv", features, "group"),)
    if shape[1] > 1:
        model += (blocks.pool("pool"),)
    shapes = shapes_of(model, shape)
    before = counted_of(model, shapes, shape, True)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a fast form was counted")

    for module, name in ((convolution, "_convolve"), (pooling, "_pool"), (pooling, "_relu")):
        monkeypatch.setattr(module, name, forbidden)
    np.testing.assert_array_equal(counted_of(model, shapes, shape, True), before)


# The other VGGs have more of the layers of vgg11.
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vgg13", "vgg16", "vgg19"}))
def test_models_of_the_zoo(name: str) -> None:
    model, shape = MODELS[name].build(10, "none"), (2, 32, 32, 3)
    seen = counted(model, shape)
    every_tap = 2 * np.array(flops(model, shape[1:]), np.float64)
    assert seen.shape == (len(model), 2) and np.all(seen >= 0)
    weighted = every_tap[:, 0] > 0
    assert np.all(seen[weighted] > 0)
    assert np.all(seen[weighted] >= every_tap[weighted] / 9)
    assert np.all(seen[weighted] <= 1.1 * every_tap[weighted])
