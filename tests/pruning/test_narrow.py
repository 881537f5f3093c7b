"""Removing channels equals masking them: activations, gradients, statistics, at every cut."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_close, assert_equal, slow

from jfedsl.models import blocks, layers
from jfedsl.models.cnn import cnn
from jfedsl.models.layers import Model, from_function, from_linen
from jfedsl.models.mlp import mlp
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.models.vgg import vgg
from jfedsl.pruning import narrow
from jfedsl.pruning.plan import Axis, Plan, trace
from pruning import masked

IMAGES = {"mlp": (8, 8, 1), "cnn": (9, 8, 2)}


def zoo(name: str, norm: str) -> Model:
    """A model of the zoo at an eighth of its width."""
    if name.startswith("vgg"):
        return vgg(int(name[3:]), 10, norm, (8, 16, 32, 64, 64))
    built: dict[str, Any] = {
        # A group norm over two numbers has next to no gradient: groups of four and more stay.
        "mlp": lambda: mlp(10, norm, (64, 64)),
        "cnn": lambda: cnn(10, norm, (8, 8), 64),
        "small": lambda: small(10, norm, (4, 4, 4, 8, 8)),
        "resnet18": lambda: resnet18(10, norm, (8, 16, 32, 64)),
    }
    return built[name]()


class Case:
    """A model without its last layer, random variables and half of its channels at random."""

    def __init__(self, name: str, norm: str, cut: int | None = None) -> None:
        model = zoo(name, norm)
        side = model[: cut or len(model) - 1]
        image = IMAGES.get(name, (32, 32, 1))
        self.x = jax.random.normal(jax.random.key(1), (3, *image))
        self.plan = trace(side, jax.ShapeDtypeStruct(self.x.shape, jnp.float32))
        fresh = jax.jit(lambda key: layers.init(side, key, self.x))(jax.random.key(0))
        # Scales, offsets, biases and statistics that differ between channels.
        draw = np.random.default_rng(2)
        self.params, self.stats = (
            jax.tree.map(lambda w: w + jnp.float32(0.1) * draw.uniform(size=w.shape).astype("f"), t)
            for t in fresh[:2]
        )
        self.counts = [source.size // 2 for source in self.plan.sources]

    def masks(self, seed: int) -> list[jax.Array]:
        return [jnp.asarray(m) for m in masked.random_masks(self.plan, self.counts, seed)]


QUICK = [("mlp", "none"), ("cnn", "group")]
SLOW = [
    ("small", "batch"),
    ("mlp", "group"),
    ("mlp", "batch"),
    ("cnn", "none"),
    ("cnn", "batch"),
    ("small", "group"),
    ("small", "none"),
]
SLOW += [(name, norm) for name in ("resnet18", "vgg13") for norm in ("none", "group", "batch")]
SLOW += [(name, "group") for name in ("vgg11", "vgg16", "vgg19")]
ALL_CASES = [*QUICK, *(slow(*case) for case in SLOW)]


@pytest.mark.parametrize(("name", "norm"), ALL_CASES)
def test_activations_after_every_layer_equal_the_masked_ones(name: str, norm: str) -> None:
    case = Case(name, norm)

    @jax.jit
    def both(masks: Any) -> Any:
        arguments = (case.params, case.stats, masks, case.x)
        narrowed = masked.layer_outputs(case.plan, case.counts, *arguments)
        return narrowed, masked.activations(case.plan, *arguments, True)[0]

    for seed in range(3):
        actual, expected = both(case.masks(seed))
        assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        assert all(float(jnp.abs(x).max()) > 0 for x in expected)


def cuts(name: str) -> list[int]:
    last = len(zoo(name, "none")) - 1
    return [1, last // 2, last]


def gradients(case: Case, forward: Any, masks: Any, train: bool) -> Any:
    """A loss of the activation at the cut, its gradient and the statistics."""

    def loss(params: Any) -> Any:
        y, stats = forward(params, case.stats, masks, case.x, train, jnp.float32)
        target = jax.random.normal(jax.random.key(3), y.shape)
        return jnp.mean((y - target) ** 2), (y, stats)

    return jax.value_and_grad(loss, has_aux=True)(case.params)


GRADIENTS = [(*case, cut) for case in QUICK[1:2] for cut in cuts(case[0])] + [
    ("resnet18", "group", 2)
]
GRADIENTS += [slow(*case, cut) for case in (QUICK[0], *SLOW) for cut in cuts(case[0])]


@pytest.mark.parametrize(("name", "norm", "cut"), GRADIENTS)
def test_loss_gradients_and_statistics_equal_the_masked_ones(
    name: str, norm: str, cut: int
) -> None:
    case = Case(name, norm, cut)
    forwards = (narrow.narrow_forward(case.plan, case.counts), masked.masked_forward(case.plan))
    both = jax.jit(lambda masks: [gradients(case, forward, masks, True) for forward in forwards])
    for seed in range(2):
        masks = case.masks(seed)
        ((loss, aux), gradient), ((loss_, aux_), expected) = both(masks)
        np.testing.assert_allclose(loss, loss_, rtol=1e-5)
        assert_close(aux, aux_, rtol=1e-4, atol=1e-4)
        kept = narrow.kept_entries(case.params, case.plan.params, masks)
        assert_close(
            jax.tree.map(lambda g, m: g * m.astype(g.dtype), expected, kept),
            gradient,
            rtol=1e-3,
            atol=1e-5,
        )
        if case.plan.sources:
            assert any(not np.all(m) for m in jax.tree.leaves(kept))


def test_all_channels_are_the_dense_model_to_the_bit() -> None:
    case = Case("cnn", "group")
    forward = narrow.narrow_forward(case.plan, [source.size for source in case.plan.sources])
    masks = [jnp.ones(source.size, bool) for source in case.plan.sources]
    dense = layers.apply(case.plan.model, case.params, case.stats, case.x, True)
    assert_equal(forward(case.params, case.stats, masks, case.x, True, jnp.float32), dense)


def test_a_narrow_forward_works_on_narrow_arrays() -> None:
    case = Case("small", "none")
    forward = narrow.narrow_forward(case.plan, case.counts)
    text = str(
        jax.make_jaxpr(
            lambda masks: forward(case.params, case.stats, masks, case.x, True, jnp.float32)
        )(case.masks(0))
    )
    assert "f32[3,8,8,2]" in text, "conv3 makes 2 channels of its 4"
    assert "f32[3,8,8,4]" not in text


AXES = ((), (Axis(0, 0, 1),), (Axis(1, 0, 3), Axis(0, 1, 1)), (Axis(2, 1, 2),))


@pytest.mark.parametrize("axes", AXES)
def test_shrink_and_grow_are_each_others_transpose_and_inverse(axes: Any) -> None:
    masks = [jnp.array([True, False, True, True]), jnp.array([False, False, True])]
    kept = narrow.select(masks, (3, 1))
    shape = [2, 5, 6]
    for axis, source, repeats in axes:
        shape[axis] = repeats * masks[source].size
    dense = jax.random.normal(jax.random.key(0), tuple(shape))
    shrink, grow = (functools.partial(_call, f, axes, kept) for f in (narrow.shrink, narrow.grow))
    small = shrink(dense)
    assert_equal(shrink(grow(small)), small)
    (entries,) = narrow.kept_entries([dense], [axes], masks)
    assert_equal(grow(small), jnp.where(entries, dense, 0.0))
    cotangent = jax.random.normal(jax.random.key(1), small.shape)
    _, shrink_vjp = jax.vjp(shrink, dense)
    assert_equal(shrink_vjp(cotangent)[0], grow(cotangent))
    _, grow_vjp = jax.vjp(grow, small)
    assert_equal(grow_vjp(dense)[0], small)
    second = jax.grad(lambda x: jnp.sum(jax.grad(lambda y: jnp.sum(shrink(y) ** 3))(x)))(dense)
    np.testing.assert_allclose(second, jnp.where(entries, 6 * dense, 0.0), rtol=1e-6)


def _call(function: Any, axes: Any, kept: Any, x: Any) -> Any:
    return function(x, axes, kept)


def test_channels_pass_pooling_and_flattening_and_end_at_a_residual_sum() -> None:
    plan = traced(*zoo("cnn", "group")[:-1], x=(3, 9, 8, 2))
    names = [source.name for source in plan.sources]
    assert names == ["conv1", "conv2", "dense"]
    kernel = [axes for axes in plan.params if len(axes) == 2]
    assert kernel == [(Axis(2, 0, 1), Axis(3, 1, 1)), (Axis(0, 1, 4), Axis(1, 2, 1))]
    resnet = traced(*zoo("resnet18", "group")[:-1], x=(3, 32, 32, 1))
    assert [source.name for source in resnet.sources] == [f"block{n}" for n in range(1, 9)]
    assert resnet.output == (), "the stream of residuals stays whole"
    assert narrow.cut_channel_mask(resnet, masked.random_masks(resnet, (4,) * 8, 0)) is None


def traced(*model: layers.Layer, x: tuple[int, ...] = (2, 4, 4, 3)) -> Plan:
    return trace(model, jax.ShapeDtypeStruct(x, jnp.float32))


def test_a_users_module_joins_by_naming_its_width() -> None:
    plan = traced(
        from_linen("first", nn.Conv(6, (3, 3)), nn.relu, width="features"),
        from_linen("norm", nn.BatchNorm(use_running_average=True)),
        blocks.pool("pool"),
        blocks.flatten(),
        from_linen("last", nn.Dense(5)),
    )
    assert [(s.name, s.size, s.groups) for s in plan.sources] == [("first", 6, 1)]
    assert plan.params == [
        (Axis(0, 0, 1),), (Axis(3, 0, 1),), (Axis(0, 0, 1),), (Axis(0, 0, 1),), (), (Axis(0, 0, 4),)
    ]  # fmt: skip
    assert plan.stats == [(Axis(0, 0, 1),), (Axis(0, 0, 1),)]
    assert plan.output == ()


class Transposed(nn.Module):
    """A dense layer whose kernel has the outputs first, `[outputs, inputs]`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.param("kernel", nn.initializers.ones, (self.features, x.shape[-1])).T


def test_layers_that_channels_cannot_be_followed_through_are_named() -> None:
    first = blocks.convolution("first", 8, "none")
    with pytest.raises(ValueError, match="block1 cannot take other than all 8 channels of first"):
        traced(first, blocks.residual("block1", 8, 1, "none"))
    turned = from_function("turn", lambda x: x.swapaxes(1, 3).reshape(x.shape[0], -1))
    with pytest.raises(ValueError, match="turn does not keep the channels of first apart"):
        traced(first, turned)
    moved = from_function("move", lambda x: x.swapaxes(1, 3))
    with pytest.raises(ValueError, match="move"):
        traced(first, moved)
    for scaled in (True, False):
        norm = nn.GroupNorm(4, use_scale=scaled, use_bias=scaled)
        with pytest.raises(ValueError, match="norm does not keep the channels of first apart"):
            traced(first, from_linen("norm", norm))
    joined = from_function("join", lambda x: jnp.concatenate([x, jnp.zeros((*x.shape[:3], 4))], 3))
    with pytest.raises(ValueError, match="join has an axis of 12, and 20 with twice the channels"):
        traced(first, joined)
    channels_first = from_linen("odd", Transposed(6), width="features")
    with pytest.raises(ValueError, match="odd has no weights with its 6 channels along the last"):
        traced(channels_first)


def test_nothing_to_remove_is_no_error() -> None:
    plan = traced(blocks.pool("pool"))
    assert plan.sources == () and plan.output == ()
