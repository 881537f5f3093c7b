"""What a model does with examples that it should not, found by trying it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.extend.core import Jaxpr, jaxprs_in_params

from jfedsl.models import layers
from jfedsl.models.layers import Layer, Model, Stats, Variables

_CLOSE = 1e-4  # of the largest entry: two batch sizes are computed in different orders


def mixing(model: Model, variables: Variables, x: Array) -> str | None:
    """The first layer in which one example changes what becomes of another, if any does.

    In evaluation mode, layer by layer, so that what comes later does not hide it; and with noise on
    all weights, as those that start at 0 would.

    Args:
      model: all layers.
      variables: parameters and statistics of every layer, float32.
      x: two examples `[2, ...]`.
    """
    params = _noisy(variables.params)

    def run(x: Array) -> list[Array]:
        apart = []
        for layer, p, s in zip(model, params, variables.stats, strict=True):
            both = _output(layer, p, s, x)
            each = [_output(layer, p, s, x[n : n + 1]) for n in (0, 1)]
            apart.append(_same(both, each))
            x = both
        return apart

    # With noise on its weights a healthy model may make NaN.
    with jax.default_matmul_precision("float32"), jax.debug_nans(False):
        apart = jax.jit(run)(x)
    return next((n.name for n, alone in zip(model, apart, strict=True) if not alone), None)


def _output(layer: Layer, params: Any, stats: Stats, x: Array) -> Array:
    y, _ = layer.apply(params, stats, x, False)
    return y if layer.activation is None else layer.activation(y)


def _same(both: Array, each: list[Array]) -> Array:
    if any(x.shape != (1, *both.shape[1:]) for x in each) or len(both) != 2:
        return jnp.array(False)
    alone, both = (x.astype(jnp.float32) for x in (jnp.concatenate(each), both))
    room = _CLOSE * jnp.max(jnp.abs(both))
    return jnp.all((jnp.abs(both - alone) <= room) | ~jnp.isfinite(both))


def _noisy(params: Any) -> Any:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), max(1, len(leaves)))
    noise = [0.1 * jax.random.normal(k, w.shape) for k, w in zip(keys, leaves, strict=False)]
    noisy = [(w + n).astype(w.dtype) for w, n in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def rounds(model: Model, variables: Variables, x: Array) -> bool:
    """Whether all that a model reads of its inputs are whole numbers that it makes of them.

    Args:
      model: all layers.
      variables: parameters and statistics of every layer, float32.
      x: inputs `[B, ...]`, real numbers.
    """
    params = _noisy(variables.params)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.square(layers.apply(model, params, variables.stats, x, False)[0]))

    if not any(_makes_whole(jaxpr) for jaxpr in _all(jax.make_jaxpr(total)(x).jaxpr)):
        return False
    with jax.debug_nans(False):
        return not jnp.any(jax.jit(jax.grad(total))(x))


def _all(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    yield jaxpr
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from _all(inner)


def _makes_whole(jaxpr: Jaxpr) -> bool:
    def of(atom: Any, kind: Any) -> bool:
        return jnp.issubdtype(atom.aval.dtype, kind)

    casts = [e for e in jaxpr.eqns if e.primitive.name == "convert_element_type"]
    return any(of(e.invars[0], jnp.floating) and of(e.outvars[0], jnp.integer) for e in casts)


def lone_values(
    model: Model, params: Any, stats: Stats, x: jax.ShapeDtypeStruct
) -> tuple[str | None, jax.ShapeDtypeStruct]:
    """The first layer whose batch norm has one value a channel, whose variance is 0.

    Args:
      model: layers in a row.
      params: parameters of each layer, arrays or shapes.
      stats: batch-norm statistics of each layer, arrays or shapes; empty where a layer has none.
      x: shape and type of the batch `[B, ...]` that the first layer is given in training.

    Returns:
      Its name, or None where there is none; and shape and type of what that layer, or the last
        one, makes of the batch.
    """
    for layer, p, s in zip(model, params, stats, strict=True):
        counts: list[int] = []
        with nn.intercept_methods(_counter(counts)):
            x = jax.eval_shape(lambda p, s, x, f=layer.apply: f(p, s, x, True)[0], p, s, x)
        if 1 in counts:
            return layer.name, x
    return None, x


def _counter(counts: list[int]) -> Callable[..., Any]:
    """Notes how many values a channel every batch norm is given."""

    def intercept(
        run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name == "__call__" and isinstance(context.module, nn.BatchNorm):
            counts.append(args[0].size // args[0].shape[context.module.axis])
        return run(*args, **kwargs)

    return intercept
