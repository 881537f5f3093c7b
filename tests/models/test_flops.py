"""FLOPs of layers against counts by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import WIDTHS, Adapted, adapted, held
from flax import linen as nn
from helpers import slow

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
    return product_flops(model, shapes, image)


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


def test_the_published_flops_of_resnet18_for_small_images() -> None:
    # 0.56 billion multiply-adds.
    assert round(sum(f for f, _ in flops(resnet18(10, "group"), (32, 32, 3))) / 2e9, 2) == 0.56


def test_frozen_kernels_have_no_gradient_and_pass_one_on_where_an_earlier_layer_is_trained() -> (
    None
):
    counted, rank = flops(adapted(10)[:3], (8, 8, 1)), Adapted.rank
    assert counted[0] == (0, 0)
    for (forward, backward), ins, outs in zip(
        counted[1:], (64, WIDTHS[0]), WIDTHS[:2], strict=True
    ):
        frozen, down, up = 2 * ins * outs, 2 * ins * rank, 2 * rank * outs
        assert forward == frozen + down + up
        first = ins == 64
        assert backward == (down + 2 * up if first else frozen + 2 * (down + up))


def test_layers_without_parameters_before_a_trained_one_have_no_backward_pass() -> None:
    model, image = held((7, 6), frozen=1)[1:], (5,)
    shapes = shapes_of(model, (1, *image))
    assert product_flops(model, shapes, image) == [(70, 0), (84, 84), (120, 240)]
    assert product_flops(model, shapes, image, True) == [(70, 70), (84, 168), (120, 240)]
    by_xla = counted_of(model, shapes, (1, *image), False)
    assert by_xla[0, 1] == 0 < by_xla[0, 0] and by_xla[1, 1] >= 84


# layer_flops, which counts as XLA does.

ELEMENTWISE = 4  # most FLOPs for an entry of an output: bias, activation, and their gradients


def counted(model: Model, shape: tuple[int, ...], trained_input: bool = False) -> np.ndarray:
    """FLOPs of forward and backward pass, `[L, 2]`, on a batch of the given shape."""
    return counted_of(model, shapes_of(model, shape), shape, trained_input)


def shapes_of(model: Model, shape: tuple[int, ...]) -> Variables:
    x = jnp.zeros(shape)
    return jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


def counted_of(
    model: Model, shapes: Variables, shape: tuple[int, ...], trained_input: bool
) -> np.ndarray:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return layer_flops(model, shapes, x, trained_input)


def taps(size: int, kernel: int, stride: int) -> int:
    """Number of pairs of an output and a tap inside of a row of pixels, with same padding."""
    outputs = -(-size // stride)
    low = max(0, (outputs - 1) * stride + kernel - size) // 2
    pixels = stride * np.arange(outputs)[:, None] + np.arange(kernel) - low
    return int(((pixels >= 0) & (pixels < size)).sum())


def strided(features: int, stride: int, bias: bool = False) -> Layer:
    convolve = convolution.conv_general_dilated
    module = nn.Conv(features, (3, 3), stride, use_bias=bias, conv_general_dilated=convolve)
    return layers.from_linen("conv", module)


# Shapes for each fast form: maps smaller than the kernel, few channels, and many channels.
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
def test_bias_and_relu_count_a_few_flops_an_entry(
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


def test_flops_are_proportional_to_the_batch() -> None:
    single, batch_of_6 = (counted(small(10)[:5], (batch, 32, 32, 3)) for batch in (1, 6))
    np.testing.assert_allclose(batch_of_6[:, 0], 6 * single[:, 0])
    np.testing.assert_allclose(batch_of_6[:, 1], 6 * single[:, 1], rtol=0.01)  # sums over the batch


def test_fewer_channels_take_less() -> None:
    whole = small(10, "group")[:4]
    assert whole[0].channels is not None and whole[2].channels is not None
    first = whole[0].channels.resized(8)
    half = (first, whole[1], whole[2].channels.resized(16), whole[3])
    of_whole, of_half, of_half_first_layer = (
        counted(model, (4, 32, 32, 3)) for model in (whole, half, (first, *whole[1:]))
    )
    assert np.all(of_half < of_whole) and np.all(of_half > 0)
    assert np.all(of_half_first_layer[:3] < of_whole[:3])
    assert np.all(of_half_first_layer[3] == of_whole[3])
    np.testing.assert_allclose(of_half[[0, 1, 3]], of_whole[[0, 1, 3]] / 2, rtol=0.01)
    np.testing.assert_allclose(of_half[2], of_whole[2] / 4, rtol=0.03)


@pytest.mark.parametrize(("shape", "features"), SHAPES)
def test_counts_do_not_depend_on_fast_forms(
    shape: tuple[int, ...], features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Model = (blocks.convolution("conv", features, "group"),)
    if shape[1] > 1:
        model += (blocks.pool("pool"),)
    shapes = shapes_of(model, shape)
    expected = counted_of(model, shapes, shape, True)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a fast form was counted")

    for module, name in ((convolution, "_convolve"), (pooling, "_pool"), (pooling, "_relu")):
        monkeypatch.setattr(module, name, forbidden)
    np.testing.assert_array_equal(counted_of(model, shapes, shape, True), expected)


# The other VGGs have more of the layers of vgg11.
LARGE = {"vgg13", "vgg16", "vgg19", "resnet18", "resnet18_thin"}


@pytest.mark.parametrize("name", [*sorted(set(MODELS) - LARGE), slow("resnet18")])
def test_both_counts_agree_on_the_models(name: str) -> None:
    model, shape = MODELS[name].build(10, "none"), (2, 32, 32, 3)
    by_xla = counted(model, shape)
    every_tap = 2 * np.array(flops(model, shape[1:]), np.float64)
    assert by_xla.shape == (len(model), 2) and np.all(by_xla >= 0)
    has_weights = every_tap[:, 0] > 0
    assert np.all(by_xla[has_weights] > 0)
    assert np.all(by_xla[has_weights] >= every_tap[has_weights] / 9)
    assert np.all(by_xla[has_weights] <= 1.1 * every_tap[has_weights])


def test_frozen_kernels_count_forward_and_for_the_gradient_of_the_input_alone() -> None:
    _, first, second, *_ = adapted(10)
    inputs, (inner, outer, _), rank = 64, WIDTHS, Adapted.rank
    flops = counted((first, second), (4, inputs))
    for (forward, backward), ins, outs in zip(flops, (inputs, inner), (inner, outer), strict=True):
        frozen, adapter = 2 * 4 * ins * outs, 2 * 4 * rank * (ins + outs)
        needed = ins == inner  # the gradient of the input
        elementwise = 4 * 4 * outs  # the sum with the adapter, the activation
        assert 0 <= forward - (frozen + adapter) <= elementwise
        up = 2 * 4 * rank * outs  # the adapter's first factor needs the gradient of its output
        expected = 2 * adapter + frozen if needed else adapter + up
        assert 0 <= backward - expected <= elementwise < frozen
