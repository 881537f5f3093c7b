"""Shapes of layers' variables and outputs, without computing any."""

import jax
from jax import Array

from jfedsl.models import layers
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model, Variables


@kept
def variables_of(model: Model, x: jax.ShapeDtypeStruct) -> Variables:
    """Shapes of the variables of layers that take `x[B, ...]`."""
    return jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


@kept
def output_of(model: Model, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape and dtype of what layers make of `x[B, ...]` in training."""

    def run(x: Array) -> Array:
        made = layers.init(model, jax.random.key(0), x)
        held = layers.with_frozen(model, made.frozen)
        return layers.apply(held, made.params, made.stats, x, train=True)[0]

    return jax.eval_shape(run, x)
