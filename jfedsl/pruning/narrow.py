"""Channels that are gone: where they lie in every array, and the model at the width that is left.

Where a layer's channels lie, in its own parameters and in those of the layers that follow, is found
by asking for all shapes at two widths: what doubles with the channels belongs to them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax import Array, lax
from jax.typing import DTypeLike

from jfedsl.models import layers
from jfedsl.models.layers import Layer, Model, Params, Stats, Variables
from jfedsl.pruning.pruner import Form, Masks, dense_form


class Axis(NamedTuple):
    """An axis of an array along which all channels of a source lie, `repeats` times in a row."""

    axis: int
    source: int
    repeats: int


Axes = tuple[Axis, ...]


class Source(NamedTuple):
    """A layer with channels that can be removed.

    Attributes:
      layer: its number.
      name: its name.
      size: how many channels.
      groups: normalisation groups they lie in.
    """

    layer: int
    name: str
    size: int
    groups: int


class Plan(NamedTuple):
    """Where the channels of the first layers of a model lie.

    Attributes:
      model: these layers.
      input: shape of what they are given, `[B, ...]`.
      sources: those with channels that can be removed.
      shapes: of their parameters and statistics.
      params: the axes of every leaf of their parameters.
      stats: likewise of their statistics.
      output: the axes of what the last layer makes.
    """

    model: Model
    input: tuple[int, ...]
    sources: tuple[Source, ...]
    shapes: Variables
    params: list[Axes]
    stats: list[Axes]
    output: Axes


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


def form(plan: Plan, counts: Sequence[int]) -> Form:
    """The layers with `counts` channels, one number a source, on dense arrays.

    What is removed is 0 in the output, as are the gradients of its weights; its statistics stay.
    """
    if tuple(counts) == tuple(source.size for source in plan.sources):
        return dense_form(plan.model)
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


def trace(model: Model, x: jax.ShapeDtypeStruct) -> Plan:
    """Finds where channels lie.

    Args:
      model: the first layers of a model.
      x: shape of an input `[B, ...]`.

    Raises:
      ValueError: names a layer that cannot work with fewer channels of the layers before it.
    """
    sources: list[Source] = []
    given, every = x.shape, list[_Shapes]()
    params: list[Axes] = []
    stats: list[Axes] = []
    carried: Axes = ()  # the axis of x along which channels of a source lie, if any
    for number, layer in enumerate(model):
        shapes = _shapes(layer, x)
        found = [_follow(layer, shapes, x, axis, sources[axis.source]) for axis in carried]
        if layer.channels is not None:
            size, groups, wider = layer.channels
            found.append(_doubled(shapes, _shapes(wider(2 * size), x), len(sources), size))
            sources.append(Source(number, layer.name, size, groups))
        each = zip(*found, strict=True) if found else [() for _ in jax.tree.leaves(shapes)]
        axes = [tuple(axis for part in parts for axis in part) for parts in each]
        split = len(jax.tree.leaves(shapes.params))
        params += axes[:split]
        stats += axes[split:-1]
        carried, x = axes[-1], shapes.output
        every.append(shapes)
        if len(carried) > 1:
            raise ValueError(f"{layer.name} mixes its channels with those it is given")
        if carried and carried[0].axis != x.ndim - 1:
            raise ValueError(f"{layer.name} makes {list(x.shape)}, where channels are not last")
    variables = Variables(tuple(s.params for s in every), tuple(s.stats for s in every))
    return Plan(model, given, tuple(sources), variables, params, stats, carried)


class _Shapes(NamedTuple):
    """Shapes of a layer's parameters, statistics and output."""

    params: Params
    stats: Stats
    output: jax.ShapeDtypeStruct


def _shapes(layer: Layer, x: jax.ShapeDtypeStruct) -> _Shapes:
    params, stats = jax.eval_shape(layer.init, jax.random.key(0), x)
    output = jax.eval_shape(lambda p, s, x: layer.apply(p, s, x, True)[0], params, stats, x)
    return _Shapes(params, stats, output)


def _doubled(shapes: _Shapes, wide: _Shapes, source: int, count: int) -> list[Axes]:
    """The axes of every leaf that are longer in `wide`, which has `2 * count` channels."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(wide), strict=True)
    return [
        tuple(
            Axis(i, source, size // count)
            for i, (size, other) in enumerate(zip(leaf.shape, more.shape, strict=True))
            if other != size
        )
        for leaf, more in pairs
    ]


def _follow(
    layer: Layer, shapes: _Shapes, x: jax.ShapeDtypeStruct, axis: Axis, source: Source
) -> list[Axes]:
    """Where the channels of an earlier source lie in a layer that is given them."""
    size = [*x.shape]
    size[axis.axis] *= 2
    try:
        wide = _shapes(layer, jax.ShapeDtypeStruct(tuple(size), x.dtype))
        if str(jax.tree.structure(wide)) != str(jax.tree.structure(shapes)):
            raise ValueError("it has other parameters then")
    except (ValueError, TypeError, FlaxError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{layer.name} cannot take other than all {source.size} channels of {source.name} "
            f"({reason[:200]})"
        ) from error
    axes = _doubled(shapes, wide, axis.source, source.size)
    if axes[-1] and not jax.tree.leaves(shapes.params):
        _check_order(layer, x, source)
    return axes


def _check_order(layer: Layer, x: jax.ShapeDtypeStruct, source: Source) -> None:
    """A layer without parameters may reshape, if it leaves the channels last and apart."""

    def first(size: int) -> np.ndarray:
        return np.arange(size) % source.size == 0

    marked = np.where(first(x.shape[-1]), np.nan, np.zeros(x.shape, np.float32))
    with jax.ensure_compile_time_eval():
        y, _ = layer.apply({}, {}, jnp.asarray(marked, jnp.float32), False)
        reached = np.isnan(y)
    if not np.array_equal(reached, np.broadcast_to(first(y.shape[-1]), y.shape)):
        raise ValueError(f"{layer.name} does not keep the channels of {source.name} apart")
