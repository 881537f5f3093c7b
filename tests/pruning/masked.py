"""A reference for channel pruning: the dense model, with removed channels set to 0 everywhere."""

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
    """Masks of `counts[i]` random channels in source i, the same number in every group."""
    draw, masks = np.random.default_rng(seed), []
    for source, count in zip(plan.sources, counts, strict=True):
        groups = np.zeros((source.groups, source.size // source.groups), bool)
        groups[:, : count // source.groups] = True
        masks.append(draw.permuted(groups, axis=1).reshape(-1))
    return masks


def activations(plan: Plan, params: Any, stats: Any, masks: Any, x: Any, train: bool) -> Any:
    """Outputs of every layer, `[B, ..., C]` with zeros, and the statistics."""
    kept = narrow.kept_entries(params, plan.params, masks)
    params = jax.tree.map(lambda w, m: w * m.astype(w.dtype), params, kept)
    outputs, updated = [], []
    for number, (layer, p, s) in enumerate(zip(plan.model, params, stats, strict=True)):
        sources = zip(masks, plan.sources, strict=True)
        layer_masks = [mask for mask, source in sources if source.layer == number]
        with nn.intercept_methods(_group_norm_over_kept(layer_masks)):
            x, s = layer.apply(p, s, x, train)
        x = layer.activation(x) if layer.activation else x
        x = _zeroed(plan.model[: number + 1], plan, masks, x)
        outputs.append(x)
        updated.append(s)
    return outputs, tuple(updated)


def _zeroed(prefix: Model, plan: Plan, masks: Any, x: Any) -> Any:
    """The activation after the layers `prefix`, with removed channels at 0."""
    kept = narrow.cut_channel_mask(_traced(prefix, plan.input), masks)
    return x if kept is None else x * kept.astype(x.dtype)[(None,) * (x.ndim - 1)]


@cache
def _traced(prefix: Model, x: tuple[int, ...]) -> Plan:
    return trace(prefix, jax.ShapeDtypeStruct(x, jnp.float32))


def _group_norm_over_kept(masks: list[Any]) -> Callable[..., Any]:
    """Intercepts a layer's first group norm: its statistics are those of kept channels.

    Args:
      masks: of the layer's own channels: one mask, or none.
    """
    unused = list(masks)

    def intercept(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        is_norm = isinstance(context.module, nn.GroupNorm) and context.method_name == "__call__"
        if unused and is_norm:
            kwargs = {**kwargs, "mask": unused.pop()}
        return run(*args, **kwargs)

    return intercept


def masked_forward(plan: Plan) -> ClientForward:
    """The client-side layers like `Pruner.forwards`, for any number of kept channels."""
    for number in range(len(plan.model)):
        _traced(plan.model[: number + 1], plan.input)  # here, as it cannot run inside a trace

    def forward(params: Any, stats: Any, masks: Any, x: Any, train: bool, dtype: Any) -> Any:
        assert jnp.dtype(dtype) == jnp.float32
        outputs, updated = activations(plan, params, stats, masks, x, train)
        kept = narrow.kept_entries(stats, plan.stats, masks)
        return outputs[-1], jax.tree.map(jnp.where, kept, updated, stats)

    return forward


def layer_outputs(plan: Plan, counts: Sequence[int], params: Any, stats: Any, masks: Any, x: Any):  # type: ignore[no-untyped-def]
    """Outputs of every layer, computed at the narrow shapes and grown to full width."""
    kept = narrow.select(masks, counts)
    model: tuple[Layer, ...] = narrow.with_widths(plan, counts)
    small = narrow._map(lambda w, axes: narrow.shrink(w, axes, kept), params, plan.params)
    small_stats = narrow._map(lambda s, axes: narrow.shrink(s, axes, kept), stats, plan.stats)
    outputs = []
    for number, (layer, p, s) in enumerate(zip(model, small, small_stats, strict=True)):
        x, _ = layer.apply(p, s, x, True)
        x = layer.activation(x) if layer.activation else x
        part = _traced(plan.model[: number + 1], plan.input)
        outputs.append(narrow.grow(x, part.output, kept))
    return outputs
