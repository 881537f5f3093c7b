"""Channel pruning the simplest way: the dense model, with all of a removed channel at zero."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jfedsl.models.layers import Layer, Model
from jfedsl.pruning import narrow
from jfedsl.pruning.plan import Plan, trace
from jfedsl.pruning.pruner import ClientForward


def random_masks(plan: Plan, counts: Sequence[int], seed: int) -> list[np.ndarray]:
    """Random channels, as many as `counts` says, the same number in every group."""
    draw, masks = np.random.default_rng(seed), []
    for source, count in zip(plan.sources, counts, strict=True):
        groups = np.zeros((source.groups, source.size // source.groups), bool)
        groups[:, : count // source.groups] = True
        masks.append(draw.permuted(groups, axis=1).reshape(-1))
    return masks


def activations(plan: Plan, params: Any, stats: Any, masks: Any, x: Any, train: bool) -> Any:
    """Outputs of every layer, `[B, ..., C]` with zeros, and the statistics."""
    kept = narrow.present(params, plan.params, masks)
    params = jax.tree.map(lambda w, m: w * m.astype(w.dtype), params, kept)
    outputs, updated = [], []
    for number, (layer, p, s) in enumerate(zip(plan.model, params, stats, strict=True)):
        own = [m for m, source in zip(masks, plan.sources, strict=True) if source.layer == number]
        with nn.intercept_methods(_statistics_of(own)):
            x, s = layer.apply(p, s, x, train)
        x = layer.activation(x) if layer.activation else x
        x = _zeroed(plan.model[: number + 1], plan, masks, x)
        outputs.append(x)
        updated.append(s)
    return outputs, tuple(updated)


def _zeroed(prefix: Model, plan: Plan, masks: Any, x: Any) -> Any:
    """The activation after some of the layers without removed channels."""
    kept = narrow.sent(_traced(prefix, plan.input), masks)
    return x if kept is None else x * kept.astype(x.dtype)[(None,) * (x.ndim - 1)]


@cache
def _traced(prefix: Model, x: tuple[int, ...]) -> Plan:
    return trace(prefix, jax.ShapeDtypeStruct(x, jnp.float32))


def _statistics_of(own: list[Any]) -> Callable[..., Any]:
    """Group norm of a layer's own channels, which the first one normalises, over kept ones."""
    left = list(own)

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if left and isinstance(context.module, nn.GroupNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "mask": left.pop()}
        return run(*args, **kwargs)

    return intercept


def form(plan: Plan) -> ClientForward:
    """The client side as `Pruner.forwards` has it, for any number of channels."""
    for number in range(len(plan.model)):
        _traced(plan.model[: number + 1], plan.input)  # runs a little, so not while others trace

    def run(params: Any, stats: Any, masks: Any, x: Any, train: bool, dtype: Any) -> Any:
        assert jnp.dtype(dtype) == jnp.float32
        outputs, updated = activations(plan, params, stats, masks, x, train)
        kept = narrow.present(stats, plan.stats, masks)
        return outputs[-1], jax.tree.map(jnp.where, kept, updated, stats)

    return run


def layer_outputs(plan: Plan, counts: Sequence[int], params: Any, stats: Any, masks: Any, x: Any):  # type: ignore[no-untyped-def]
    """Outputs of every layer, computed at the narrow shapes and put back to their places."""
    kept = narrow.select(masks, counts)
    model: tuple[Layer, ...] = narrow.resized(plan, counts)
    small = narrow._map(lambda w, axes: narrow.shrink(w, axes, kept), params, plan.params)
    small_stats = narrow._map(lambda s, axes: narrow.shrink(s, axes, kept), stats, plan.stats)
    outputs = []
    for number, (layer, p, s) in enumerate(zip(model, small, small_stats, strict=True)):
        x, _ = layer.apply(p, s, x, True)
        x = layer.activation(x) if layer.activation else x
        part = _traced(plan.model[: number + 1], plan.input)
        outputs.append(narrow.grow(x, part.output, kept))
    return outputs
