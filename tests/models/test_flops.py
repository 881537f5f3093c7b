"""Arithmetic of layers against counts made by hand."""

import jax
import jax.numpy as jnp

from jfedsl.models import layers, resnet18, small
from jfedsl.models.flops import product_flops
from jfedsl.models.layers import Model


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
