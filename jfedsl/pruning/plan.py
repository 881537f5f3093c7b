"""Where the removable channels of a model's first layers lie in their arrays.

A layer's channels are an axis of its own arrays and of the arrays of later layers. The axes are
found by evaluating all shapes at two widths: an axis that doubles with the channels carries them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from jfedsl.errors import one_line
from jfedsl.models.layers import Layer, Model, Params, Stats, Variables

_MOST_REASON = 200  # characters


class Axis(NamedTuple):
    """An axis of an array along which the channels of a source lie.

    Attributes:
      axis: its number.
      source: the number of the source.
      repeats: how many times in a row all channels lie there; above 1 after flattening an image.
    """

    axis: int
    source: int
    repeats: int


Axes = tuple[Axis, ...]


class Source(NamedTuple):
    """A layer with channels that can be removed.

    Attributes:
      layer: its number.
      name: its name.
      size: number of channels.
      groups: number of normalization groups, of consecutive channels.
    """

    layer: int
    name: str
    size: int
    groups: int


class Plan(NamedTuple):
    """Where the channels of the first layers of a model lie.

    Attributes:
      model: the first layers.
      input: shape of their input, `[B, ...]`.
      sources: the layers with channels that can be removed.
      shapes: of the parameters and statistics.
      params: the channel axes of every leaf of the parameters, in tree order.
      stats: the channel axes of every leaf of the statistics, in tree order.
      output: the channel axes of the last layer's output.
    """

    model: Model
    input: tuple[int, ...]
    sources: tuple[Source, ...]
    shapes: Variables
    params: list[Axes]
    stats: list[Axes]
    output: Axes


def trace(model: Model, x: jax.ShapeDtypeStruct) -> Plan:
    """Finds where channels lie.

    Args:
      model: the first layers of a model.
      x: shape of an input, `[B, ...]`.

    Raises:
      ValueError: a layer cannot work with fewer channels of the layers before it; it is named.
    """
    sources: list[Source] = []
    input_shape, all_shapes = x.shape, list[_Shapes]()
    params: list[Axes] = []
    stats: list[Axes] = []
    carried: Axes = ()  # the channel axis of x, if it has one
    for number, layer in enumerate(model):
        shapes = _shapes(layer, x)
        by_source = [
            _incoming_axes(layer, shapes, x, axis, sources[axis.source]) for axis in carried
        ]
        if layer.channels is not None:
            by_source.append(_layer_axes(layer, shapes, x, len(sources)))
            sources.append(Source(number, layer.name, *layer.channels[:2]))
        by_leaf = (
            zip(*by_source, strict=True) if by_source else [() for _ in jax.tree.leaves(shapes)]
        )
        axes = [tuple(axis for part in parts for axis in part) for parts in by_leaf]
        split = len(jax.tree.leaves(shapes.params))
        params += axes[:split]
        stats += axes[split:-1]
        carried, x = axes[-1], shapes.output
        all_shapes.append(shapes)
        if len(carried) > 1:
            raise ValueError(f"{layer.name} mixes its channels with those of its input")
        if carried and carried[0].axis != x.ndim - 1:
            raise ValueError(f"{layer.name} returns {list(x.shape)}, where channels are not last")
    variables = Variables(tuple(s.params for s in all_shapes), tuple(s.stats for s in all_shapes))
    return Plan(model, input_shape, tuple(sources), variables, params, stats, carried)


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
            for i, (size, wide_size) in enumerate(zip(leaf.shape, wide_leaf.shape, strict=True))
            if wide_size != size
        )
        for leaf, wide_leaf in pairs
    ]


def _check_doubled(layer: Layer, shapes: _Shapes, wide: _Shapes, size: int) -> None:
    """Raises ValueError unless every axis that changes doubles, and is a multiple of `size`."""
    for leaf, wide_leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(wide), strict=True):
        for n, m in zip(leaf.shape, wide_leaf.shape, strict=True):
            if n != m and (m != 2 * n or n % size):
                raise ValueError(
                    f"{layer.name} has an axis of {n}, and {m} with twice the channels"
                )


def _layer_axes(layer: Layer, shapes: _Shapes, x: jax.ShapeDtypeStruct, source: int) -> list[Axes]:
    """The axes of a layer's leaves and output along which its own channels lie."""
    assert layer.channels is not None
    size, _, wider = layer.channels
    wide = _shapes(wider(2 * size), x)
    _check_doubled(layer, shapes, wide, size)
    axes = _doubled(shapes, wide, source, size)
    # The axes of the parameters come first; those of statistics and output are left out here.
    leaves = zip(jax.tree.leaves(shapes.params), axes, strict=False)
    if not any(
        leaf.ndim > 1 and (leaf.ndim - 1, source, 1) in leaf_axes for leaf, leaf_axes in leaves
    ):
        raise ValueError(
            f"{layer.name} has no weights with its {size} channels along the last axis"
        )
    return axes


def _incoming_axes(
    layer: Layer, shapes: _Shapes, x: jax.ShapeDtypeStruct, axis: Axis, source: Source
) -> list[Axes]:
    """The axes of a layer's leaves and output along which an earlier source's channels lie."""
    size = [*x.shape]
    size[axis.axis] *= 2
    try:
        wide = _shapes(layer, jax.ShapeDtypeStruct(tuple(size), x.dtype))
        if str(jax.tree.structure(wide)) != str(jax.tree.structure(shapes)):
            raise ValueError("its parameters change with them")
    except (ValueError, TypeError, FlaxError) as error:
        raise ValueError(
            f"{layer.name} cannot take other than all {source.size} channels of {source.name} "
            f"({one_line(str(error), _MOST_REASON)})"
        ) from error
    _check_doubled(layer, shapes, wide, source.size)
    axes = _doubled(shapes, wide, axis.source, source.size)
    if axes[-1]:
        _check_order(layer, shapes, x, source)
    return axes


def _check_order(layer: Layer, shapes: _Shapes, x: jax.ShapeDtypeStruct, source: Source) -> None:
    """Raises ValueError if a layer mixes channels or reorders them; it may pool, flatten or scale.

    Shapes do not show a permutation. So the first channel of the input is set to NaN, and exactly
    the first channel of the output has to be NaN.
    """

    def is_first_channel(size: int) -> np.ndarray:
        return np.arange(size) % source.size == 0

    marked = np.where(is_first_channel(x.shape[-1]), np.nan, np.zeros(x.shape, np.float32))
    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
        y, _ = layer.apply(ones.params, ones.stats, jnp.asarray(marked, jnp.float32), False)
        reached = np.isnan(y)
    if not np.array_equal(reached, np.broadcast_to(is_first_channel(y.shape[-1]), y.shape)):
        raise ValueError(f"{layer.name} does not keep the channels of {source.name} apart")
