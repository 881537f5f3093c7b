"""The built-in models: published names, shapes and sizes, on images of all sizes, at any cut."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow

from jfedsl.models import blocks, layers
from jfedsl.models.cut import cut_index
from jfedsl.models.layers import Model, Variables
from jfedsl.models.registry import MODELS
from jfedsl.models.small import small
from jfedsl.models.vgg import vgg

# Output channels of the convolutions in arXiv 1409.1556, table 1; M is pooling.
PUBLISHED = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512 M",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
IMAGES = {"28x28x1": (28, 28, 1), "32x32x3": (32, 32, 3), "8x8x1": (8, 8, 1)}


def shapes(model: Model, image: tuple[int, ...], batch: int = 2) -> tuple[Variables, jax.Array]:
    """Shapes of variables and output; nothing is computed."""

    def run(key: jax.Array, x: jax.Array) -> tuple[Variables, jax.Array]:
        variables = layers.init(model, key, x)
        return variables, layers.apply(model, variables.params, variables.stats, x, True)[0]

    return jax.eval_shape(run, jax.random.key(0), jnp.zeros((batch, *image)))


@pytest.mark.parametrize("depth", PUBLISHED)
def test_vgg_is_the_published_configuration_with_one_dense_layer(depth: int) -> None:
    model = vgg(depth, 10)
    variables, _ = shapes(model, (32, 32, 3))
    widths, names, block, position = [], [], 1, 0
    for word in PUBLISHED[depth].split():
        position = 0 if word == "M" else position + 1
        names.append(f"pool{block}" if word == "M" else f"conv{block}_{position}")
        block += word == "M"
        widths += [] if word == "M" else [int(word)]
    assert [layer.name for layer in model] == [*names, "flatten", "logits"]
    kernels = [k for k in jax.tree.leaves(variables.params) if k.ndim == 4]
    ins = [3, *widths[:-1]]
    assert [k.shape for k in kernels] == [(3, 3, i, o) for i, o in zip(ins, widths, strict=True)]
    weights = sum(9 * i * o + o for i, o in zip(ins, widths, strict=True)) + 512 * 10 + 10
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == weights
    assert len(kernels) + 3 == depth, "the original has three dense layers"


def test_small_has_five_convolutions_each_followed_by_pooling() -> None:
    variables, _ = shapes(small(10), (32, 32, 3))
    kernels = [k.shape[2:] for k in jax.tree.leaves(variables.params) if k.ndim == 4]
    assert kernels == [(3, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    kinds = Counter(layer.name.rstrip("0123456789") for layer in small(10))
    assert kinds == {"conv": 5, "pool": 5, "flatten": 1, "logits": 1}
    dense = variables.params[-1]["kernel"]
    assert dense.shape == (64, 10)


# Depths between those of vgg11 and vgg19, and another width.
MARKS = dict.fromkeys(("vgg13", "vgg16", "resnet18_thin"), pytest.mark.slow)

# Every model with every image, and with every norm.
TAKEN = [
    pytest.param(name, norm, image, id=f"{name}-{norm}-{kind}", marks=MARKS.get(name, ()))
    for name in MODELS
    for norm in blocks.NORMS
    for kind, image in IMAGES.items()
    if norm == "batch" or kind == next(iter(IMAGES))
]


@pytest.mark.parametrize(("name", "norm", "image"), TAKEN)
def test_every_model_takes_every_image(name: str, norm: str, image: tuple[int, ...]) -> None:
    model = MODELS[name].build(7, norm)
    variables, logits = shapes(model, image)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert bool(jax.tree.leaves(variables.stats)) == (norm == "batch")
    cuts = [cut_index(model, layer.name) for layer in model[:-1]]
    assert cuts == list(range(1, len(model))), "every cut has a name"


@pytest.mark.parametrize("name", ["small", "vgg11", *map(slow, ("vgg13", "vgg16", "vgg19"))])
def test_models_for_32x32_have_the_same_dense_layer_for_every_image(name: str) -> None:
    dense = {
        shapes(MODELS[name].build(10, "none"), image)[0].params[-1]["kernel"].shape
        for image in IMAGES.values()
    }
    assert dense == {(64 if name == "small" else 512, 10)}


@pytest.mark.parametrize("size", [(28, 28), (31, 8), (32, 32), (40, 36)])
def test_padding_puts_zeros_around_the_image(size: tuple[int, int]) -> None:
    layer = blocks.padded(layers.from_function("identity", lambda x: x), 32)
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    y, _ = layer.apply({}, {}, x, True)
    missing = [max(0, 32 - n) for n in size]
    margins = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
    np.testing.assert_array_equal(y, np.pad(np.asarray(x), [(0, 0), *margins, (0, 0)]))
    assert layer.name == "identity"


def test_padding_and_pooling_do_not_commute_with_activations() -> None:
    assert not blocks.padded(blocks.pool("pool"), 32).keeps_order


def narrow(name: str) -> Model:
    """`small` or a VGG with few channels."""
    if name == "small":
        return small(4, "group", widths=(4, 8, 4, 8, 4))
    return vgg(int(name[3:]), 4, "batch", widths=(4, 8, 4, 8, 4))


@pytest.mark.parametrize("name", ["small", slow("vgg13")])
def test_halves_equal_the_whole_at_every_cut(name: str) -> None:
    model, x = narrow(name), jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
    params, stats, _ = jax.jit(lambda key: layers.init(model, key, x))(jax.random.key(0))

    def outputs(cut: int) -> tuple[jax.Array, object]:
        smashed, client_stats = layers.apply(model[:cut], params[:cut], stats[:cut], x, True)
        y, server_stats = layers.apply(model[cut:], params[cut:], stats[cut:], smashed, True)
        return y, client_stats + server_stats

    whole, *cuts = jax.jit(lambda: [outputs(cut) for cut in range(len(model))])()
    for halves in cuts:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), halves, whole)


def test_an_image_too_small_for_a_model_is_refused_by_the_layer() -> None:
    with pytest.raises(ValueError, match=r"pool2 makes \[2, 0, 0, 64\] of \[2, 1, 1, 64\]"):
        shapes(MODELS["cnn"].build(10, "none"), (3, 3, 1))


def test_two_layers_of_one_name_are_refused() -> None:
    twice = (blocks.flatten(), blocks.dense("dense", 4, "none"), blocks.dense("dense", 4, "none"))
    with pytest.raises(ValueError, match="two layers are named dense"):
        shapes(twice, (2, 2, 1))


def test_padded_layers_keep_what_is_frozen() -> None:
    layer = layers.from_function("scale", lambda x: x)._replace(
        apply=lambda params, stats, x, train, frozen=None: (x * frozen, stats)
    )
    y, _ = layers.bound(blocks.padded(layer, 4), 3.0).apply((), (), jnp.ones((1, 2, 2, 1)), False)
    assert y.shape == (1, 4, 4, 1) and y.sum() == 12
