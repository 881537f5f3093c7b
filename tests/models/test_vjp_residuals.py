"""Bytes of residuals against counts by hand and against XLA."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import Array

from jfedsl.models import layers
from jfedsl.models.layers import Model, Variables
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.models.vgg import vgg
from jfedsl.models.vjp_residuals import residual_bytes
from jfedsl.nn.lax_only import lax_only

CUTS = [("small", small(10, "group"), 4), ("vgg11", vgg(11, 10), 4),
        ("resnet18", resnet18(10, "batch"), 4)]  # fmt: skip


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def residuals(function: Any, params: Any, *inputs: Any) -> int:
    return residual_bytes(lambda *given: (function(*given), ()), params, *inputs)[0]


def test_inputs_and_parameters_do_not_count_in_any_shape():
    def run(w: Array, x: Array) -> Array:
        x, w = x.reshape(6, 4), jax.jit(lambda w: w[None])(w)
        x = jax.jit(lambda x: jnp.pad(x, [(0, 0), (0, 0)]))(x)
        return (x @ w.T) @ w

    assert residuals(run, array(4), array(2, 3, 4)) == 4 * 6, "x @ w.T, but neither x nor w"


def test_copies_in_another_dtype_count():
    def run(w: Array, x: Array) -> Array:
        return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)) @ jnp.eye(5, dtype=jnp.bfloat16)

    eye = 2 * 5 * 5
    assert residuals(run, array(4, 5), array(3, 4)) == 2 * 3 * 4 + eye

    def two_layers(w: Array, x: Array) -> Array:
        w = w.astype(jnp.bfloat16)
        return (x.astype(jnp.bfloat16) @ w) @ w

    assert residuals(two_layers, array(4, 4), array(3, 4)) == 2 * (2 * 3 * 4 + 4 * 4)


def test_padding_makes_another_array():
    def run(w: Array, x: Array) -> Array:
        return jnp.pad(x, [(1, 0), (0, 0)]) @ w

    assert residuals(run, array(4, 5), array(3, 4)) == 4 * 4 * 4

    def shifted(w: Array, x: Array) -> Array:
        return jax.lax.pad(x, 0.0, [(1, -1, 0), (0, 0, 0)]) @ w

    assert residuals(shifted, array(4, 5), array(3, 4)) == 4 * 3 * 4


def test_an_array_kept_twice_counts_once():
    def run(w: Array, x: Array) -> Array:
        hidden = jnp.sinh(w[0] * x)
        again = jax.jit(lambda h: (h, h[None], h))(hidden)
        return w[1] * again[0] + w[2] * again[1][0] + w[3] * again[2] + w[4] * hidden

    cosh = 4 * 7
    scalars = 4 * 4  # entries of w, taken out
    assert residuals(run, array(5), array(7)) == 4 * 7 + cosh + scalars


def test_an_array_that_a_jitted_function_returns_twice_counts_once():
    def pair(x: Array) -> tuple[Array, Array]:
        y = jnp.sinh(x)
        return y, y

    def run(w: Array, x: Array) -> Array:
        first, second = jax.jit(pair)(x)
        return w[0] * first * first + w[1] * second

    assert residuals(run, array(2), array(7)) == 4 * 7


def test_two_dense_layers_by_hand():
    def run(params: Any, x: Array) -> Array:
        return nn.relu(x @ params[0]) @ params[1]

    batch, inputs, units, outputs = 3, 5, 7, 2
    params = [array(inputs, units), array(units, outputs)]
    expected = batch * units * (4 + 1)  # the second layer's input, and the sign of each entry
    assert residual_bytes(lambda p, x: (run(p, x), ()), params, array(batch, inputs)) == (
        expected, 4 * batch * outputs,
    )  # fmt: skip


def shapes_of(model: Model, x: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


def test_a_convolution_and_pooling_by_hand():
    model = small(10, "none")[:2]
    x = array(2, 32, 32, 3)
    params, stats, _ = shapes_of(model, x)
    kept, output = residual_bytes(
        lambda p, s, x: layers.apply(model, p, s, x, True), params, stats, x
    )
    entries, pooled_entries = 2 * 32 * 32 * 16, 2 * 16 * 16 * 16
    assert kept == 4 * entries + pooled_entries, "the input of pooling, and the signs of the maxima"
    assert output == 4 * pooled_entries


@pytest.mark.parametrize("model, cut", [case[1:] for case in CUTS], ids=[c[0] for c in CUTS])
def test_the_compiled_backward_pass_takes_as_many_bytes(model, cut):
    """XLA drops arguments that the program does not read."""
    client_side, x = model[:cut], array(2, 32, 32, 3)
    params, stats, _ = shapes_of(client_side, x)

    def forward(p: Any, s: Any, x: Any) -> Any:
        y, vjp, _ = jax.vjp(lambda p: layers.apply(client_side, p, s, x, True), p, has_aux=True)
        return y, vjp

    with lax_only():
        y, vjp = jax.eval_shape(forward, params, stats, x)
        compiled = jax.jit(lambda vjp, y: vjp(y)).lower(vjp, y).compile()
    kept, output = residual_bytes(
        lambda p, s, x: layers.apply(client_side, p, s, x, True), params, stats, x
    )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = [(path[-1].key, 4 * leaf.size) for path, leaf in leaves]
    _, *kernels = [size for name, size in sizes if name == "kernel"]  # images have no gradient
    scales = [size for name, size in sizes if name == "scale"]
    inputs_and_params = 4 * x.size + sum(kernels) + sum(scales)
    argument_bytes = compiled.memory_analysis().argument_size_in_bytes
    assert argument_bytes == kept + output + inputs_and_params
