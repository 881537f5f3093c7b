"""Checks of a user's model that only running or tracing it can make.

A model must compute each example independently of the others, must not round normalised inputs to
integers, and must not normalise over a single value.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.extend.core import Jaxpr, jaxprs_in_params

from jfedsl.models import layers
from jfedsl.models.layers import Layer, Model, Stats, Variables

_TOLERANCE = 1e-4  # of the largest entry: sums are rounded differently at another batch size


def first_mixing_layer(model: Model, variables: Variables, x: Array) -> str | None:
    """The name of the first layer in which one example affects the output of another, or None.

    Each layer runs in evaluation mode, on two examples together and on each alone. Noise is added
    to all weights: weights that start at 0 would hide a dependence.

    Args:
      model: all layers.
      variables: of every layer.
      x: two examples `[2, ...]`.
    """
    noisy = variables._replace(params=_noisy(variables.params))

    def run(variables: Variables, x: Array) -> list[Array]:
        independent = []
        for layer, held in layers.by_layer(model, variables):
            together = _output(layer, held, x)
            alone = [_output(layer, held, x[n : n + 1]) for n in (0, 1)]
            independent.append(_agree(together, alone))
            x = together
        return independent

    # With noise on its weights a healthy model may make NaN.
    with jax.default_matmul_precision("float32"), jax.debug_nans(False):
        independent = jax.jit(run)(noisy, x)
    return next(
        (layer.name for layer, passed in zip(model, independent, strict=True) if not passed), None
    )


def _output(layer: Layer, variables: Variables, x: Array) -> Array:
    y, _ = layers.bound(layer, variables.frozen).apply(variables.params, variables.stats, x, False)
    return y if layer.activation is None else layer.activation(y)


def _agree(together: Array, alone: list[Array]) -> Array:
    """Whether outputs `[2, ...]` of two examples equal their outputs `[1, ...]` alone."""
    if any(y.shape != (1, *together.shape[1:]) for y in alone) or len(together) != 2:
        return jnp.array(False)
    separate, joint = (y.astype(jnp.float32) for y in (jnp.concatenate(alone), together))
    tolerance = _TOLERANCE * jnp.max(jnp.abs(joint))
    return jnp.all((jnp.abs(joint - separate) <= tolerance) | ~jnp.isfinite(joint))


def _noisy(params: Any) -> Any:
    """Parameters with normal noise of deviation 0.1 added to every entry."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), max(1, len(leaves)))
    noise = [0.1 * jax.random.normal(k, w.shape) for k, w in zip(keys, leaves, strict=False)]
    noisy = [(w + n).astype(w.dtype) for w, n in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def rounds_inputs(model: Model, variables: Variables, x: Array) -> bool:
    """Whether a model casts its inputs to integers and depends on them in no other way.

    Such a model takes token ids, not real numbers: its gradient by the inputs is 0.

    Args:
      model: all layers.
      variables: of every layer.
      x: inputs `[B, ...]`, real numbers.
    """
    params, model = _noisy(variables.params), layers.with_frozen(model, variables.frozen)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.square(layers.apply(model, params, variables.stats, x, False)[0]))

    # A zero gradient alone says nothing: a healthy model may have one, as of a sign function.
    if not any(_casts_to_integers(jaxpr) for jaxpr in _nested(jax.make_jaxpr(total)(x).jaxpr)):
        return False
    with jax.debug_nans(False):
        return not jnp.any(jax.jit(jax.grad(total))(x))


def _nested(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """A jaxpr and all jaxprs inside of it."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from _nested(inner)


def _casts_to_integers(jaxpr: Jaxpr) -> bool:
    def is_a(atom: Any, kind: Any) -> bool:
        return jnp.issubdtype(atom.aval.dtype, kind)

    casts = [e for e in jaxpr.eqns if e.primitive.name == "convert_element_type"]
    return any(is_a(e.invars[0], jnp.floating) and is_a(e.outvars[0], jnp.integer) for e in casts)


def layer_with_single_values(
    model: Model, params: Any, stats: Stats, x: jax.ShapeDtypeStruct
) -> tuple[str | None, jax.ShapeDtypeStruct]:
    """The name of the first layer whose batch norm has one value a channel, so that variance is 0.

    Args:
      model: consecutive layers.
      params: parameters of each layer, arrays or shapes.
      stats: batch-norm statistics of each layer, arrays or shapes; empty where a layer has none.
      x: shape and dtype of the training batch `[B, ...]` that the first layer takes.

    Returns:
      The name, or None where there is no such layer; and the shape and dtype of the output of that
        layer, or else of the last one.
    """
    for layer, p, s in zip(model, params, stats, strict=True):
        counts: list[int] = []
        with nn.intercept_methods(_count_into(counts)):
            x = jax.eval_shape(lambda p, s, x, f=layer.apply: f(p, s, x, True)[0], p, s, x)
        if 1 in counts:
            return layer.name, x
    return None, x


def _count_into(counts: list[int]) -> Callable[..., Any]:
    """An interceptor that appends the number of values a channel of every batch norm's input."""

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name == "__call__" and isinstance(context.module, nn.BatchNorm):
            counts.append(args[0].size // args[0].shape[context.module.axis])
        return run(*args, **kwargs)

    return intercept
