"""Checks of models: examples mixed in a batch, inputs cast to integers, norms of one value."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jfedsl.models import layers, tokens, trial
from jfedsl.models.layers import Layer, from_function, from_linen
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS, ModelEntry


class Ids(nn.Module):
    """Rounds its inputs to token ids."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Embed(9, 4)(jnp.clip(jnp.round(x), 0, 8).astype(jnp.int32)).reshape(len(x), -1)


class Normed(nn.Module):
    """Batch norm that uses running statistics in evaluation."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        return nn.BatchNorm(use_running_average=not train)(x)


FLAT = from_function("flatten", lambda x: x.reshape(x.shape[0], -1))
HEAD = from_linen("head", nn.Dense(3))
ZERO = from_linen("zero", nn.Dense(4, kernel_init=nn.initializers.zeros))


def on_two_examples(model: tuple[Layer, ...], shape: tuple[int, ...]) -> Any:
    """The model, its initial variables and two random examples."""
    x = jax.random.normal(jax.random.key(1), (2, *shape))
    return model, jax.jit(lambda x: layers.init(model, jax.random.key(0), x))(x), x


@pytest.mark.parametrize(
    ("model", "shape", "name"),
    [
        ((from_linen("conv", nn.Conv(4, (3, 3))), FLAT, HEAD), (6, 6), "conv"),
        ((from_linen("conv", nn.Conv(4, (3, 3))), FLAT, HEAD), (6, 6, 1), None),
        ((from_linen("row", nn.Conv(4, (3,))), FLAT, HEAD), (6, 6), None),
        ((from_function("centre", lambda x: x - x.mean(0, keepdims=True)), HEAD), (5,), "centre"),
        ((from_function("fold", lambda x: x.reshape(-1, 4)), HEAD), (4, 4), "fold"),
        ((from_linen("norm", Normed()), HEAD), (5,), None),
        ((HEAD, from_linen("soft", nn.Dense(3), lambda x: jax.nn.softmax(x, 0))), (5,), "soft"),
        ((from_function("roll", lambda x: jnp.roll(x, 1, 0)), ZERO, HEAD), (5,), "roll"),
        ((from_linen("ids", Ids()), HEAD), (5,), None),
    ],
)
def test_a_layer_that_mixes_examples_is_found(
    model: tuple[Layer, ...], shape: tuple[int, ...], name: str | None
) -> None:
    assert trial.first_mixing_layer(*on_two_examples(model, shape)) == name


def test_built_in_models_need_no_check() -> None:
    assert all(entry.checked for entry in MODELS.values())
    assert not ModelEntry(mlp, "dense1").checked


@pytest.mark.parametrize(
    ("model", "rounded"),
    [
        ((from_linen("ids", Ids()), HEAD), True),
        ((FLAT, HEAD), False),
        ((from_function("sign", lambda x: jnp.where(x > 0, 1.0, -1.0)), HEAD), False),
        (
            (
                from_function("both", lambda x: x + jnp.round(x).astype(jnp.int32).astype(x.dtype)),
                HEAD,
            ),
            False,
        ),
    ],
)
def test_a_model_that_casts_real_inputs_to_integers_is_found(
    model: tuple[Layer, ...], rounded: bool
) -> None:
    assert trial.rounds_inputs(*on_two_examples(model, (5,))) == rounded


@pytest.mark.parametrize(
    ("shape", "batch", "name"),
    [((5,), 1, "norm"), ((5,), 2, None), ((1, 1, 5), 1, "norm"), ((2, 1, 5), 1, None)],
)
def test_batch_norm_of_one_value_a_channel_is_found(
    shape: tuple[int, ...], batch: int, name: str | None
) -> None:
    model, (params, stats, _), x = on_two_examples(
        (from_linen("norm", Normed()), FLAT, HEAD), shape
    )
    inputs = jax.ShapeDtypeStruct((batch, *shape), x.dtype)
    layer, output = trial.layer_with_single_values(model, params, stats, inputs)
    assert layer == name and (layer or output.shape == (batch, 3))


def test_a_first_layer_gets_exact_integers_when_activations_are_bfloat16() -> None:
    model = (tokens.with_integer_inputs(from_linen("embed", nn.Embed(1000, 4))), FLAT, HEAD)
    ids = jnp.array([[999, 257], [3, 998]], jnp.float32)
    params, stats, _ = layers.init(model, jax.random.key(0), ids)
    expected = params[0]["embedding"][ids.astype(jnp.int32)].reshape(2, -1)
    actual, _ = layers.apply(model[:2], params[:2], stats[:2], ids, True, jnp.bfloat16)
    assert jnp.array_equal(actual, expected.astype(jnp.bfloat16).astype(jnp.float32))
    assert jnp.array_equal(layers.apply((), (), (), ids, True, jnp.bfloat16)[0], ids)
    with pytest.raises(ValueError, match="whole makes int32, where real numbers are needed"):
        layer = tokens.with_integer_inputs(from_function("whole", lambda x: x))
        layers.apply((layer,), ({},), ({},), ids, True)
