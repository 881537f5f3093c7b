"""The description of a whole model, with which another program can compute it."""

from typing import Any

import jax
from jax import Array

from jfedsl.models import layers
from jfedsl.models.layers import Model
from jfedsl.models.steps import Step, function_steps, record_steps


def describe(model: Model, x: Array) -> list[dict[str, Any]]:
    """The layers in order, each with its `name` and the `steps` that it computes, as plain values.

    The steps are those of `jfedsl.models.steps`; another program can follow them.

    Args:
      model: the whole model.
      x: a sample batch `[1, ...]`; only its shape and dtype matter.
    """
    descriptions: list[dict[str, Any]] = []

    def run(x: Array) -> Array:
        for layer in model:
            params, stats, frozen = layers.init_layer(layer, jax.random.key(0), x)
            with record_steps(layer.name) as parts:
                y, _ = layers.bound(layer, frozen).apply(params, stats, x, False)
            unknown: list[Step] = [{"op": "custom"}]
            steps = unknown if layer.steps is None else layer.steps(x.shape, parts)
            activation = function_steps(layer.activation)
            descriptions.append({"name": layer.name, "steps": [*steps, *activation]})
            x = y
        return x

    jax.eval_shape(run, x)  # tracing is enough to call every module
    return descriptions
