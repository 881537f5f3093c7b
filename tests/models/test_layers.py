"""Cutting a model changes nothing, whatever the cut, the layer or the normalisation."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import WIDTHS, adapted
from flax import linen as nn
from flax.errors import FlaxError
from jax import Array

from jfedsl.models import blocks, layers, tokens
from jfedsl.models.cnn import cnn
from jfedsl.models.cut import cut_index
from jfedsl.models.layers import Model, Variables
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS
from jfedsl.nn import pooling

NORMS = blocks.NORMS
CUTS = {"mlp": 3, "cnn": 6}
every_model = pytest.mark.parametrize("norm", NORMS)
every_cut = pytest.mark.parametrize(
    ("name", "cut"), [(name, cut) for name, cuts in CUTS.items() for cut in range(1, cuts + 1)]
)


def small(name: str, norm: str) -> Model:
    """A narrow `mlp` or `cnn`."""
    if name == "mlp":
        return mlp(4, norm, widths=(8, 12))
    return cnn(4, norm, widths=(8, 12), units=16)


def images() -> Array:
    return jax.random.normal(jax.random.key(7), (3, 8, 8, 1))


@cache
def initial(name: str, norm: str) -> Variables:
    """Initial variables, shared by tests, as each operation compiles."""
    return layers.init(small(name, norm), jax.random.key(0), images())


def assert_trees_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@cache
def whole(name: str, norm: str, train: bool) -> tuple[Array, Any]:
    return layers.apply(small(name, norm), *initial(name, norm)[:2], images(), train)


def test_every_cut_is_tested() -> None:
    assert CUTS == {name: len(small(name, "none")) - 1 for name in CUTS}


@pytest.mark.parametrize(
    ("norm", "train"), [("none", True), ("group", True), ("batch", True), ("batch", False)]
)
@every_cut
def test_the_two_halves_one_after_the_other_equal_the_whole(
    name: str, cut: int, norm: str, train: bool
) -> None:
    model, (params, stats, _) = small(name, norm), initial(name, norm)
    x, client = layers.apply(model[:cut], params[:cut], stats[:cut], images(), train)
    y, server = layers.apply(model[cut:], params[cut:], stats[cut:], x, train)
    assert_trees_equal((y, client + server), whole(name, norm, train))


@every_model
@pytest.mark.parametrize("name", CUTS)
def test_weights_of_a_layer_depend_only_on_the_key_and_its_number(name: str, norm: str) -> None:
    model, (params, stats, _) = small(name, norm), initial(name, norm)
    x = images()
    for i, layer in enumerate(model):
        variables = layer.init(jax.random.fold_in(jax.random.key(0), i), jnp.zeros(x.shape))
        assert_trees_equal(variables, (params[i], stats[i]))
        x, _ = layers.apply((layer,), params[i : i + 1], stats[i : i + 1], x, False)


def test_no_two_layers_draw_the_same_weights() -> None:
    twins = tuple(blocks.dense(name, 8, "none") for name in ("dense1", "dense2"))
    first, second = layers.init(twins, jax.random.key(0), jnp.zeros((1, 8))).params
    assert not np.any(first["Dense_0"]["kernel"] == second["Dense_0"]["kernel"])


@pytest.mark.parametrize(("name", "cut"), [("mlp", 1), ("mlp", 3), ("cnn", 2), ("cnn", 6)])
def test_initial_weights_of_a_client_side_part_are_those_of_the_whole(name: str, cut: int) -> None:
    part = layers.init(small(name, "batch")[:cut], jax.random.key(0), images())
    params, stats, _ = initial(name, "batch")
    assert_trees_equal(part, Variables(params[:cut], stats[:cut]))


@pytest.mark.parametrize("name", CUTS)
def test_names_of_layers_are_unique(name: str) -> None:
    names = [layer.name for layer in small(name, "none")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_found_by_name_and_by_number(name: str) -> None:
    model = small(name, "none")
    for i, layer in enumerate(model[:-1], 1):
        assert cut_index(model, layer.name) == i
        assert cut_index(model, str(i)) == i


def test_default_cuts_of_the_models_exist() -> None:
    for entry in MODELS.values():
        model = entry.build(10, "group")
        assert 0 < cut_index(model, entry.default_cut) < len(model)


# Cuts of a model with 7 layers. str.isdigit is true of the last one.
@pytest.mark.parametrize(
    "cut", ["0", "7", "8", "-1", "logits", "pool9", "", "conv", "1.0", "--1", "-", "²"]
)
def test_an_unknown_cut_is_refused_with_the_allowed_names(cut: str) -> None:
    with pytest.raises(ValueError, match="conv1, pool1, conv2, pool2, flatten, dense") as error:
        cut_index(small("cnn", "none"), cut)
    assert "1 to 6" in str(error.value)
    assert "logits" not in str(error.value).removesuffix(", not logits")


class AddsInTraining(nn.Module):
    """Adds 1 in training; has neither parameters nor statistics."""

    def __call__(self, x: Array, train: bool) -> Array:
        return x + 1.0 if train else x


def test_a_linen_module_with_a_train_argument_gets_it() -> None:
    layer = layers.from_linen("adds", AddsInTraining())
    x = jnp.zeros((2, 3))
    params, stats = layer.init(jax.random.key(0), x)
    assert (params, stats) == ({}, {})
    for train in (False, True):
        y, after = layer.apply(params, stats, x, train)
        np.testing.assert_array_equal(y, np.full((2, 3), float(train)))
        assert after == {}


def test_a_linen_module_without_a_train_argument_is_the_same_in_training() -> None:
    layer = layers.from_linen("dense", nn.Dense(4))
    x = jax.random.normal(jax.random.key(1), (2, 3))
    params, stats = layer.init(jax.random.key(0), x)
    assert stats == {}
    (trained, _), (evaluated, _) = (layer.apply(params, stats, x, t) for t in (True, False))
    np.testing.assert_array_equal(trained, evaluated)
    np.testing.assert_allclose(trained, x @ params["kernel"], rtol=1e-5, atol=1e-6)


def test_a_linen_module_with_statistics_but_no_train_argument_keeps_them() -> None:
    layer = layers.from_linen("norm", nn.BatchNorm(use_running_average=True))
    x = jax.random.normal(jax.random.key(1), (4, 3))
    params, stats = layer.init(jax.random.key(0), x)
    y, after = layer.apply(params, stats, x, True)
    assert_trees_equal(after, stats)
    assert set(stats) == {"mean", "var"}
    # Mean 0 and variance 1 at first, plus the epsilon of Flax.
    np.testing.assert_allclose(y, x, rtol=1e-4)


def test_a_function_as_a_layer_has_no_parameters() -> None:
    layer = layers.from_function("double", lambda x: 2.0 * x)
    assert layer.init(jax.random.key(0), jnp.ones((1, 2))) == ({}, {})
    y, stats = layer.apply({}, {}, jnp.ones((1, 2)), True)
    assert stats == {}
    np.testing.assert_array_equal(y, np.full((1, 2), 2.0))


def test_batch_norm_in_training_uses_the_batch_and_moves_the_running_statistics() -> None:
    layer = blocks.dense("dense", 5, "batch")
    x = jax.random.normal(jax.random.key(1), (64, 3)) + 2.0
    params, stats = layer.init(jax.random.key(0), x)
    y, after = layer.apply(params, stats, x, True)
    before_norm = np.asarray(x @ params["Dense_0"]["kernel"])
    mean, var = before_norm.mean(0), before_norm.var(0)
    expected = (before_norm - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    moved = after["BatchNorm_0"]
    # From mean 0 and variance 1 with momentum 0.9.
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * var, rtol=1e-3)


def test_batch_norm_in_evaluation_uses_running_statistics_and_leaves_them() -> None:
    layer = blocks.dense("dense", 5, "batch")
    x = jax.random.normal(jax.random.key(1), (64, 3)) + 2.0
    params, stats = layer.init(jax.random.key(0), x)
    _, moved = layer.apply(params, stats, x, True)
    y, after = layer.apply(params, moved, x, False)
    assert_trees_equal(after, moved)
    mean, var = moved["BatchNorm_0"]["mean"], moved["BatchNorm_0"]["var"]
    scaled = (x @ params["Dense_0"]["kernel"] - mean[None]) / jnp.sqrt(var + 1e-5)[None]
    np.testing.assert_allclose(y, scaled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("norm", "depends"), [("none", False), ("group", False), ("batch", True)])
def test_an_example_depends_on_its_batch_only_in_training_with_batch_norm(
    norm: str, depends: bool
) -> None:
    layer = blocks.convolution("conv", 8, norm)
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    params, stats = layer.init(jax.random.key(0), x)
    for train in (False, True):
        together, _ = layer.apply(params, stats, x, train)
        alone, _ = layer.apply(params, stats, x[:1], train)
        close = np.allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
        assert close != (train and depends)


def clipped(x: Array) -> Array:
    """Elementwise and nondecreasing, but not 0 for negative numbers."""
    return jnp.clip(x, -0.5, 0.5)


def test_an_activation_right_before_pooling_runs_after_it_with_the_same_bits() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    shapes = []

    def activation(x: Array) -> Array:
        shapes.append(x.shape)
        return pooling.relu(x)

    def value_and_gradients(keeps_order: bool) -> tuple[Array, Array]:
        model = (
            layers.from_linen("conv", nn.Conv(5, (3, 3)), activation),
            layers.from_function("pool", pooling.max_pool, keeps_order),
        )
        params, stats, _ = layers.init(model, jax.random.key(1), x)
        shapes.clear()
        return jax.value_and_grad(
            lambda p, x: jnp.sum(layers.apply(model, p, stats, x, True)[0] ** 2), (0, 1)
        )(params, x)

    expected = value_and_gradients(keeps_order=False)
    actual = value_and_gradients(keeps_order=True)
    assert shapes == [(2, 3, 2, 5)]
    assert_trees_equal(actual, expected)


def test_activations_keep_their_order_and_end_the_model() -> None:
    model = (
        layers.from_function("shift", lambda x: x - 1.0)._replace(activation=clipped),
        layers.from_function("double", lambda x: 2.0 * x, True)._replace(activation=jnp.exp),
        layers.from_function("half", lambda x: 0.5 * x, True),
    )
    y, _ = layers.apply(model, ({},) * 3, ({},) * 3, jnp.array([[0.0, 1.2, 4.0]]), True)
    # exp(half(double(clip(x - 1)))): both functions were declared to keep the order.
    np.testing.assert_allclose(y, np.exp([[-0.5, 0.2, 0.5]]), rtol=1e-6)
    y, _ = layers.apply(model[:1], ({},), ({},), jnp.array([[3.0]]), True)
    np.testing.assert_array_equal(y, [[0.5]])


def frozen_case(dtype: Any) -> tuple[Model, Variables, Array]:
    model, x = adapted(4, dtype=dtype), jax.random.normal(jax.random.key(7), (3, 64))
    return model, layers.init(model, jax.random.key(0), x), x


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_frozen_variables_stand_beside_the_parameters_and_keep_their_type(dtype: Any) -> None:
    model, (params, stats, frozen), x = frozen_case(dtype)
    shapes = jax.tree.map(lambda w: (w.shape, w.dtype), frozen)
    kernels = [
        {"kernel": ((ins, outs), dtype)} for ins, outs in zip((64, *WIDTHS), WIDTHS, strict=False)
    ]
    assert shapes == ({}, *kernels, {})
    held = layers.with_frozen(model, frozen)
    y, _ = layers.apply(held, params, stats, x, True)
    for layer, adapter, base in zip(model[1:4], params[1:4], frozen[1:4], strict=True):
        assert layer.activation is not None
        scale = 0.01 if dtype == jnp.int8 else 1.0
        kernel = scale * base["kernel"].astype(jnp.float32)
        x = layer.activation(x @ (kernel + adapter["down"]["kernel"] @ adapter["up"]["kernel"]))
    expected, _ = layers.apply(model[4:], params[4:], stats[4:], x, True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_model_takes_other_frozen_variables_than_it_has_and_misses_them_if_it_has_none() -> None:
    model, (params, stats, frozen), x = frozen_case(jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, frozen)
    twice = layers.with_frozen(layers.with_frozen(model, zeros), frozen)
    once = layers.with_frozen(model, frozen)
    computed, expected = (layers.apply(m, params, stats, x, False) for m in (twice, once))
    assert_trees_equal(computed, expected)
    with pytest.raises(FlaxError, match="frozen"):
        layers.apply(model, params, stats, x, False)


def test_a_model_without_frozen_variables_has_an_empty_tuple_of_them() -> None:
    model = small("mlp", "none")
    assert initial("mlp", "none").frozen == ()
    assert layers.with_frozen(model, ()) is model


def test_a_map_over_clients_gives_frozen_variables_no_axis() -> None:
    model, (params, stats, frozen), x = frozen_case(jnp.bfloat16)

    def run(frozen: Any, params: Any, x: Array) -> Array:
        held = layers.with_frozen(model, frozen)
        return jax.vmap(lambda p, x: layers.apply(held, p, stats, x, True)[0])(params, x)

    several = jax.tree.map(lambda w: jnp.stack([w] * 5), (params, x))
    text = str(jax.make_jaxpr(run)(frozen, *several))
    assert "[64,48]" in text and "5,64,48" not in text


def test_a_layer_with_integer_inputs_passes_frozen_variables_on() -> None:
    class Table(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            rows = self.variable("frozen", "rows", lambda: jnp.arange(6.0).reshape(3, 2))
            return rows.value[x]

    model = (tokens.with_integer_inputs(layers.from_linen("table", Table())),)
    x = jnp.array([[2.0], [0.0]])
    params, stats, frozen = layers.init(model, jax.random.key(0), x)
    y, _ = layers.apply(layers.with_frozen(model, frozen), params, stats, x, False)
    np.testing.assert_array_equal(y, [[[4, 5]], [[0, 1]]])
