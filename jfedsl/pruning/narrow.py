"""Client-side layers at reduced width: kept channels are gathered, and outputs scattered back.

The state stays dense: parameters come in at full width, and gradients leave at full width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model, Params, Stats
from jfedsl.pruning.plan import Axes, Plan
from jfedsl.pruning.pruner import ClientForward, Masks, dense_forward


class Selection(NamedTuple):
    """Which channels stay, one entry for each source.

    Attributes:
      indices: of the channels that stay, ascending, int32 `[k]`.
      masks: bools `[channels]`.
    """

    indices: list[Array]
    masks: list[Array]


def select(masks: Sequence[Array], counts: Sequence[int]) -> Selection:
    """The selection of masks, bools `[channels]`, with `counts[i]` channels in mask i."""
    # A stable sort puts the kept channels first; their number k is static, as jit needs it.
    indices = [jnp.argsort(~m, stable=True)[:k] for m, k in zip(masks, counts, strict=True)]
    return Selection(indices, list(masks))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def shrink(x: Array, axes: Axes, selection: Selection) -> Array:
    """Gathers the channels that stay; the gradient of removed channels is 0."""
    for axis, source, repeats in axes:
        x = _take(x, selection.indices[source], axis, repeats)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def grow(x: Array, axes: Axes, selection: Selection) -> Array:
    """Puts channels back to their positions, with 0 for removed ones: the transpose of `shrink`."""
    for axis, source, repeats in axes:
        mask = selection.masks[source]
        # A gather by running index and a mask, instead of a scatter.
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


def kept_entries(tree: Any, axes: list[Axes], masks: Sequence[Array]) -> Any:
    """Which entries of the leaves of a tree belong to kept channels: bools of their shapes."""

    def of_leaf(leaf: Array, leaf_axes: Axes) -> Array:
        kept = jnp.ones(leaf.shape, bool)
        for axis, source, repeats in leaf_axes:
            kept &= _along(masks[source], axis, repeats, leaf.ndim)
        return kept

    return _map(of_leaf, tree, axes)


def cut_channel_mask(plan: Plan, masks: Sequence[Array]) -> Array | None:
    """Which entries of the last axis of the output exist, bool; None: all."""
    if not plan.output:
        return None
    ((_, source, repeats),) = plan.output
    return jnp.tile(masks[source], repeats)


def _take(x: Array, indices: Array, axis: int, repeats: int) -> Array:
    """Takes the entries `indices` of an axis, in each of the blocks that repeat along it."""
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
    """A mask `[channels]` in a shape that broadcasts along one axis of an array of that rank."""
    tiled = jnp.tile(mask, repeats)
    return tiled.reshape((1,) * axis + tiled.shape + (1,) * (rank - axis - 1))


def with_widths(plan: Plan, counts: Sequence[int]) -> Model:
    """The layers with `counts[i]` channels in source i."""
    model = list(plan.model)
    for source, count in zip(plan.sources, counts, strict=True):
        channels = model[source.layer].channels
        assert channels is not None
        model[source.layer] = channels.resized(count)
    return tuple(model)


def narrow_forward(plan: Plan, counts: Sequence[int]) -> ClientForward:
    """The layers computed with `counts[i]` channels in source i, from and to arrays of full width.

    Removed channels are 0 in the output, gradients of their weights are 0, and their statistics
    stay as they are.
    """
    if tuple(counts) == tuple(source.size for source in plan.sources):
        return dense_forward(plan.model)
    model = with_widths(plan, counts)

    def forward(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        assert not frozen  # layers that have any are not narrowed
        kept = select(masks, counts)
        small = _map(lambda w, axes: shrink(w, axes, kept), params, plan.params)
        small_stats = _map(lambda s, axes: shrink(s, axes, kept), stats, plan.stats)
        y, moved = layers.apply(model, small, small_stats, x, train, dtype)
        moved = _map(lambda s, axes: grow(s, axes, kept), moved, plan.stats)
        stats = jax.tree.map(jnp.where, kept_entries(stats, plan.stats, masks), moved, stats)
        return grow(y, plan.output, kept), stats

    return forward


def _map(function: Callable[[Array, Axes], Array], tree: Any, axes: list[Axes]) -> Any:
    """Applies a function to every leaf of a tree and its channel axes."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, axes, strict=True)
    return jax.tree.unflatten(treedef, [function(leaf, leaf_axes) for leaf, leaf_axes in pairs])
