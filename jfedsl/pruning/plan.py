"""Where the channels lie that can be removed from the first layers of a model.

In a layer's own parameters and in those of the layers that follow, this is found by asking for all
shapes at two widths: what doubles with the channels belongs to them.
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
            found.append(_own(layer, shapes, x, len(sources)))
            sources.append(Source(number, layer.name, *layer.channels[:2]))
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


def _check_doubled(layer: Layer, shapes: _Shapes, wide: _Shapes, size: int) -> None:
    """Raises ValueError unless every axis that changes doubles, and is made of the channels."""
    for leaf, more in zip(jax.tree.leaves(shapes), jax.tree.leaves(wide), strict=True):
        for n, m in zip(leaf.shape, more.shape, strict=True):
            if n != m and (m != 2 * n or n % size):
                raise ValueError(f"{layer.name} has {n} where twice the channels make {m}")


def _own(layer: Layer, shapes: _Shapes, x: jax.ShapeDtypeStruct, source: int) -> list[Axes]:
    """Where a layer's own channels lie."""
    assert layer.channels is not None
    size, _, wider = layer.channels
    wide = _shapes(wider(2 * size), x)
    _check_doubled(layer, shapes, wide, size)
    axes = _doubled(shapes, wide, source, size)
    leaves = zip(jax.tree.leaves(shapes.params), axes, strict=False)
    if not any(leaf.ndim > 1 and (leaf.ndim - 1, source, 1) in own for leaf, own in leaves):
        raise ValueError(
            f"{layer.name} has no weights with its {size} channels along the last axis"
        )
    return axes


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
    """A layer may pool, reshape or scale, if it leaves the channels last and apart."""

    def first(size: int) -> np.ndarray:
        return np.arange(size) % source.size == 0

    marked = np.where(first(x.shape[-1]), np.nan, np.zeros(x.shape, np.float32))
    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
        y, _ = layer.apply(ones.params, ones.stats, jnp.asarray(marked, jnp.float32), False)
        reached = np.isnan(y)
    if not np.array_equal(reached, np.broadcast_to(first(y.shape[-1]), y.shape)):
        raise ValueError(f"{layer.name} does not keep the channels of {source.name} apart")
