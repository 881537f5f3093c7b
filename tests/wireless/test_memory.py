"""Memory of clients, by hand and in multiples of the outputs of layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import INPUTS, WIDTHS, adapted, held
from flax import linen as nn

from jfedsl.models import blocks, layers
from jfedsl.models.layers import Model, Variables
from jfedsl.models.mlp import mlp
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.models.vgg import vgg
from jfedsl.nn.lax_only import lax_only
from jfedsl.wireless.memory import Memory, client_memory

BATCH = 16


def shapes_of(model: Model, image: tuple[int, ...]) -> tuple[jax.ShapeDtypeStruct, Variables]:
    x = jax.ShapeDtypeStruct((BATCH, *image), jnp.float32)
    return x, jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


def memory(
    model: Model, image: tuple[int, ...], dtype: Any = jnp.float32, integers: bool = False
) -> Memory:
    x, variables = shapes_of(model, image)
    return client_memory(model, variables, optax.adam(0.1).init, x, dtype, integers)


PIXELS, UNITS = 64, 256
WEIGHTS = PIXELS * UNITS + UNITS
SIGNS = BATCH * UNITS


def test_a_dense_layer_by_hand():
    expected = Memory(
        parameters=4 * WEIGHTS, gradients=4 * WEIGHTS, optimizer=2 * 4 * WEIGHTS + 4,
        batch=4 * BATCH * PIXELS, residuals=SIGNS, cut_gradient=4 * BATCH * UNITS,
    )  # fmt: skip
    counted = memory(mlp(10)[:2], (8, 8, 1))
    assert counted == expected
    assert counted.total == sum(expected)


def test_the_whole_model_where_nothing_is_cut():
    counted = memory(mlp(10), (8, 8, 1))
    hidden = [layer.channels.size for layer in mlp(10) if layer.channels]
    assert counted.residuals == BATCH * sum(hidden) * (4 + 1)
    assert counted.cut_gradient == 4 * BATCH * 10


def test_bfloat16_keeps_rounded_copies():
    in_bfloat16 = memory(mlp(10)[:2], (8, 8, 1), jnp.bfloat16)
    in_float32 = memory(mlp(10)[:2], (8, 8, 1))
    assert in_bfloat16 == in_float32._replace(residuals=2 * BATCH * PIXELS + SIGNS), "rounded batch"
    in_bfloat16, in_float32 = (
        memory(mlp(10)[:3], (8, 8, 1), dtype) for dtype in (jnp.bfloat16, jnp.float32)
    )
    _, variables = shapes_of(mlp(10)[:3], (8, 8, 1))
    kernel = max(leaf.size for leaf in jax.tree.leaves(variables.params[2]))
    rounded = 2 * (BATCH * PIXELS + kernel)
    assert in_bfloat16.residuals == in_float32.residuals - 2 * BATCH * UNITS + rounded


def test_int8_keeps_codes_for_products():
    in_int8 = memory(mlp(10)[:2], (8, 8, 1), integers=True)
    key, scale = 8, 4  # bytes
    in_float32 = memory(mlp(10)[:2], (8, 8, 1))
    assert in_int8 == in_float32._replace(residuals=BATCH * PIXELS + SIGNS + key + scale)


# Ratios to the bytes of the batch and one output a layer: of all that `jax.vjp` keeps, and of what
# is counted.
MODELS = {
    "small": (small(10, "group")[:4], 2.63, 2.44),
    "vgg11": (vgg(11, 10, "group")[:4], 2.78, 2.55),
    "resnet18": (resnet18(10, "group")[:3], 6.71, 5.03),
}


def outputs_of(model: Model, image: tuple[int, ...]) -> int:
    """Bytes of the batch and of the output of each layer."""
    x, variables = shapes_of(model, image)
    entries = math.prod(x.shape)
    for layer, p, s in zip(model, *variables[:2], strict=True):
        x = jax.eval_shape(lambda p, s, x, f=layer.apply: f(p, s, x, True)[0], p, s, x)
        entries += math.prod(x.shape)
    return 4 * entries


def leaves_of(model: Model, image: tuple[int, ...]) -> list[jax.ShapeDtypeStruct]:
    """All arrays that `jax.vjp` keeps."""

    def vjp(p: Any, s: Any, x: Any) -> Any:
        return jax.vjp(lambda p: layers.apply(model, p, s, x, True), p, has_aux=True)[1]

    x, variables = shapes_of(model, image)
    with lax_only():
        return jax.tree.leaves(jax.eval_shape(vjp, *variables[:2], x))


@pytest.mark.parametrize("model, all_leaves, counted", MODELS.values(), ids=MODELS)
def test_backward_passes_keep_several_times_the_outputs_of_layers(model, all_leaves, counted):
    image = (32, 32, 3)
    leaves, memory_of_client = leaves_of(model, image), memory(model, image)
    counted_bytes = memory_of_client.batch + memory_of_client.residuals
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    zeros = sum(4 * leaf.size for leaf in leaves if leaf.dtype == bool)  # kept by ReLU, never read
    _, variables = shapes_of(model, image)
    params = jax.tree_util.tree_leaves_with_path(variables.params)
    _, *kernels = [w.size for path, w in params if path[-1].key == "kernel"]
    scales = [w.size for path, w in params if path[-1].key == "scale"]
    assert counted_bytes == total - zeros - 4 * sum(kernels + scales)
    ratios = np.array([total, counted_bytes]) / outputs_of(model, image)
    np.testing.assert_allclose(ratios, [all_leaves, counted], atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_frozen_variables_lie_in_memory_as_they_are_and_have_no_gradient_or_moments(dtype: str):
    model = adapted(10, dtype=jnp.dtype(dtype))[1:3]
    lean, full = memory(model, (INPUTS,)), memory(adapted(10)[1:3], (INPUTS,))
    entries = INPUTS * WIDTHS[0] + WIDTHS[0] * WIDTHS[1]
    assert lean.parameters == lean.gradients + entries * jnp.dtype(dtype).itemsize
    assert (lean.gradients, lean.optimizer) == (full.gradients, full.optimizer)
    # What the backward pass reads of another type is a copy: here of the second kernel alone.
    copied = 0 if dtype == "float32" else 4 * WIDTHS[0] * WIDTHS[1]
    assert lean.residuals == full.residuals + copied


def test_layers_without_parameters_need_memory_for_a_forward_pass_alone() -> None:
    model = held((7, 6, 5), frozen=2)
    kernels, batch = 4 * (64 * 7 + 7 * 6), 4 * BATCH * 64
    assert memory(model[:3], (8, 8, 1)) == (kernels, 0, 4, batch, 0, 4 * BATCH * 6)
    # The layer after them needs its input and the signs of its activation.
    residuals = memory(model[:4], (8, 8, 1)).residuals
    assert residuals == BATCH * (4 * 6 + 5)


def test_packed_frozen_variables_take_the_bytes_that_they_have() -> None:
    class Packed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            codes = self.variable("frozen", "codes", lambda: jnp.zeros((64, 20), jnp.uint8)).value
            pairs = jnp.stack([codes & 15, codes >> 4], axis=-1).reshape(64, 40)
            return x @ pairs.astype(x.dtype)

    counted = memory((blocks.flatten(), layers.from_linen("packed", Packed())), (8, 8, 1))
    assert (counted.parameters, counted.residuals) == (64 * 20, 0)
