"""The client side at the width that is left: kept channels gathered, what comes out put back."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Model, Params, Stats
from jfedsl.pruning.plan import Axes, Plan
from jfedsl.pruning.pruner import ClientForward, Masks, dense_forward


class Selection(NamedTuple):
    """Which channels stay, one entry a source: in ascending order `[k]`, and as bools `[size]`."""

    indices: list[Array]
    masks: list[Array]


def select(masks: Sequence[Array], counts: Sequence[int]) -> Selection:
    """The channels `masks[size]` that stay, `counts` of them."""
    indices = [jnp.argsort(~m, stable=True)[:k] for m, k in zip(masks, counts, strict=True)]
    return Selection(indices, list(masks))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def shrink(x: Array, axes: Axes, selection: Selection) -> Array:
    """The channels that stay; the gradient of those that do not is 0."""
    for axis, source, repeats in axes:
        x = _take(x, selection.indices[source], axis, repeats)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def grow(x: Array, axes: Axes, selection: Selection) -> Array:
    """Channels that stay at their places, 0 between them: the transpose of `shrink`."""
    for axis, source, repeats in axes:
        mask = selection.masks[source]
        x = _take(x, jnp.maximum(jnp.cumsum(mask) - 1, 0), axis, repeats)
        x = jnp.where(_along(mask, axis, repeats, x.ndim), x, 0.0)
    return x


def _shrink_forward(x: Array, axes: Axes, selection: Selection) -> tuple[Array, Selection]:
    return shrink(x, axes, selection), selection


def _shrink_backward(axes: Axes, selection: Selection, dy: Array) -> tuple[Array, None]:
    return grow(dy, axes, selection), None


def _grow_forward(x: Array, axes: Axes, selection: Selection) -> tuple[Array, Selection]:
    return grow(x, axes, selection), selection


def _grow_backward(axes: Axes, selection: Selection, dy: Array) -> tuple[Array, None]:
    return shrink(dy, axes, selection), None


shrink.defvjp(_shrink_forward, _shrink_backward)
grow.defvjp(_grow_forward, _grow_backward)


def present(tree: Any, axes: list[Axes], masks: Sequence[Array]) -> Any:
    """Which entries of the leaves of a tree stay: bools of their shapes."""

    def one(leaf: Array, own: Axes) -> Array:
        kept = jnp.ones(leaf.shape, bool)
        for axis, source, repeats in own:
            kept &= _along(masks[source], axis, repeats, leaf.ndim)
        return kept

    return _map(one, tree, axes)


def sent(plan: Plan, masks: Sequence[Array]) -> Array | None:
    """Which entries of the last axis of the output stay, None where all do."""
    if not plan.output:
        return None
    ((_, source, repeats),) = plan.output
    return jnp.tile(masks[source], repeats)


def _take(x: Array, indices: Array, axis: int, repeats: int) -> Array:
    """Entries `indices` of each of the repeats along an axis."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    folded = x.reshape(*before, repeats, x.shape[axis] // repeats, *after)
    if folded.ndim > 2 and not after:
        # A gather along the last axis of more than a vector is slow to compute and to read on CPU;
        # a product with ones and zeros gives the same numbers.
        pick = jax.nn.one_hot(indices, folded.shape[-1], dtype=x.dtype, axis=0)
        taken = jnp.matmul(folded, pick, precision=lax.Precision.HIGHEST)
    else:
        taken = jnp.take(folded, indices, axis=axis + 1, mode="clip")
    return taken.reshape(*before, repeats * indices.size, *after)


def _along(mask: Array, axis: int, repeats: int, rank: int) -> Array:
    """A mask, repeated, in the shape that broadcasts along one axis."""
    tiled = jnp.tile(mask, repeats)
    return tiled.reshape((1,) * axis + tiled.shape + (1,) * (rank - axis - 1))


def resized(plan: Plan, counts: Sequence[int]) -> Model:
    """The layers with `counts` channels, one number a source."""
    model = list(plan.model)
    for source, count in zip(plan.sources, counts, strict=True):
        channels = model[source.layer].channels
        assert channels is not None
        model[source.layer] = channels.resized(count)
    return tuple(model)


def form(plan: Plan, counts: Sequence[int]) -> ClientForward:
    """The layers with `counts` channels, one number a source, on dense arrays.

    What is removed is 0 in the output, as are the gradients of its weights; its statistics stay.
    """
    if tuple(counts) == tuple(source.size for source in plan.sources):
        return dense_forward(plan.model)
    model = resized(plan, counts)

    def run(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike
    ) -> tuple[Array, Stats]:
        kept = select(masks, counts)
        small = _map(lambda w, axes: shrink(w, axes, kept), params, plan.params)
        small_stats = _map(lambda s, axes: shrink(s, axes, kept), stats, plan.stats)
        y, moved = layers.apply(model, small, small_stats, x, train, dtype)
        moved = _map(lambda s, axes: grow(s, axes, kept), moved, plan.stats)
        stats = jax.tree.map(jnp.where, present(stats, plan.stats, masks), moved, stats)
        return grow(y, plan.output, kept), stats

    return run


def _map(function: Callable[[Array, Axes], Array], tree: Any, axes: list[Axes]) -> Any:
    """A function of every leaf of a tree and its axes."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, axes, strict=True)
    return jax.tree.unflatten(treedef, [function(leaf, own) for leaf, own in pairs])
