"""A model is a tuple of layers, so cutting it is slicing it.

Parameters and statistics are tuples as long as the model. Unlike Flax's `Sequential` or nnx
modules, a slice keeps every layer's own parameters under the same names, whatever the cut.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from jfedsl.errors import as_text, close_to
from jfedsl.keys import fold
from jfedsl.models.steps import Describe, Step, of_function, of_module, recording

Params = Any
Stats = Any


class Variables(NamedTuple):
    """Parameters and normalisation statistics of a model, tuples with one entry a layer."""

    params: Params
    stats: Stats


Activation = Callable[[Array], Array]


class Channels(NamedTuple):
    """Channels that can be removed from a layer: those of its output, or inner ones.

    Attributes:
      size: how many there are.
      groups: normalisation groups they lie in, one after the other; each keeps as many as another.
      resized: `size -> Layer`, the layer with another number of them in as many groups.
    """

    size: int
    groups: int
    resized: Callable[[int], "Layer"]


class Layer(NamedTuple):
    """One layer as pure functions: weights with their normalisation and activation, or a reshaping.

    Attributes:
      name: unique in its model; a cut is named by the last layer before it.
      init: `(key, x[B, ...]) -> (params, stats)`; both are `{}` where the layer has none.
      apply: `(params, stats, x, train) -> (y, stats)`; `train` picks batch over running statistics.
      activation: applied to what `apply` makes; elementwise and nowhere decreasing. None: nothing.
      keeps_order: whether `apply` commutes with all such functions, as taking maxima does; an
        activation right before it then runs right after it, on fewer entries.
      channels: that can be removed; None where all have to stay.
      whole: whether it is given whole numbers, see `of_whole_numbers`.
      steps: what `apply` does, for other programs; None where nobody said.
    """

    name: str
    init: Callable[[Array, Array], tuple[Params, Stats]]
    apply: Callable[[Params, Stats, Array, bool], tuple[Array, Stats]]
    activation: Activation | None = None
    keeps_order: bool = False
    channels: Channels | None = None
    whole: bool = False
    steps: Describe | None = None


Model = tuple[Layer, ...]


def from_linen(
    name: str,
    module: nn.Module,
    activation: Activation | None = None,
    width: str | None = None,
    groups: int = 1,
) -> Layer:
    """Wraps a Flax linen module as a layer; its `__call__` may take `train`.

    Args:
      name: the layer's name.
      module: unbound; may hold the collections `params` and `batch_stats`, and draws no random
        numbers, as Flax's dropout would.
      activation: elementwise and nowhere decreasing, to run after the module, or after pooling that
        follows it. (Any other belongs into the module.)
      width: the field of the module that says how many channels it has, if they can be removed:
        `features` of a convolution. Nothing but this number may change what becomes of a channel.
      groups: normalisation groups that these channels lie in.

    Raises:
      ValueError: from `init`, where the module holds other collections.
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def options(train: bool) -> dict[str, Any]:
        return {"train": train} if takes_train else {}

    def init(key: Array, x: Array) -> tuple[Params, Stats]:
        variables = {**module.init(key, x, **options(False))}
        params, stats = variables.pop("params", {}), variables.pop("batch_stats", {})
        if variables:
            held = ", ".join(variables)
            raise ValueError(f"{name} holds {held}; modules may hold params and batch_stats")
        return params, stats

    def apply(params: Params, stats: Stats, x: Array, train: bool) -> tuple[Array, Stats]:
        variables = {"params": params, "batch_stats": stats}
        updated: Any = {"batch_stats": stats}
        y: Any
        if train and stats:
            y, updated = module.apply(variables, x, mutable=["batch_stats"], **options(train))
        else:
            y = module.apply(variables, x, **options(train))
        return y, updated["batch_stats"]

    def resized(size: int) -> Layer:
        changed: dict[str, Any] = {str(width): size}
        return from_linen(name, module.clone(**changed), activation, width, groups)

    channels = None if width is None else Channels(getattr(module, width), groups, resized)
    return Layer(name, init, apply, activation, channels=channels, steps=of_module(module))


def from_function(
    name: str,
    function: Callable[[Array], Array],
    keeps_order: bool = False,
    step: Step | None = None,
) -> Layer:
    """Wraps a function without parameters, such as pooling; `keeps_order` as in `Layer`.

    `step` says what it does, as `steps.MEANINGS` has it; default that it is the user's own.
    """
    steps = of_function(function) if step is None else [step]
    return Layer(
        name,
        lambda key, x: ({}, {}),
        lambda params, stats, x, train: (function(x), stats),
        keeps_order=keeps_order,
        steps=lambda shape, parts: steps,
    )


def of_whole_numbers(layer: Layer) -> Layer:
    """The layer given int32, which travels as float32 until there, and so below 2^24."""

    def init(key: Array, x: Array) -> tuple[Params, Stats]:
        return layer.init(key, x.astype(jnp.int32))

    def apply(params: Params, stats: Stats, x: Array, train: bool) -> tuple[Array, Stats]:
        return layer.apply(params, stats, x.astype(jnp.int32), train)

    channels = layer.channels
    if channels is not None:
        resized = channels.resized
        channels = channels._replace(resized=lambda size: of_whole_numbers(resized(size)))
    return layer._replace(init=init, apply=apply, channels=channels, whole=True)


def init(model: Model, key: Array, x: Array) -> Variables:
    """Initial parameters and statistics; layer i draws from fold_in(key, i), whatever the cut.

    Args:
      model: the whole model.
      key: scalar PRNG key.
      x: a sample batch `[B, ...]`; only its shape and dtype matter.

    Raises:
      ValueError: two layers of one name, or a layer that leaves nothing of so small an input, or
        makes something else than one array.
    """
    names = [layer.name for layer in model]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two layers are named {twice[0]}")
    params, stats = [], []
    for i, layer in enumerate(model):
        p, s = layer.init(fold(key, i), x)
        params.append(p)
        stats.append(s)
        y, _ = layer.apply(p, s, x, False)
        if not isinstance(y, Array) or y.size == 0:
            made = list(y.shape) if isinstance(y, Array) else type(y).__name__
            raise ValueError(f"{layer.name} makes {made} of {list(x.shape)}")
        x = y
    return Variables(tuple(params), tuple(stats))


def apply(
    model: Model,
    params: Params,
    stats: Stats,
    x: Array,
    train: bool,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Array, Stats]:
    """Runs the layers in order.

    Args:
      model: all layers, or some in a row.
      params: of these layers, float32.
      stats: of these layers, float32, and used as such.
      x: input `[B, ...]`, float32.
      train: whether normalisation uses the batch's statistics.
      dtype: that parameters and activations are rounded to, and products computed in.

    Returns:
      The output, float32, and the new statistics.

    Raises:
      ValueError: the last of these layers makes whole numbers, which have no gradient.
    """
    params = jax.tree.map(lambda w: w.astype(dtype), params)
    x = x.astype(dtype) if model and not model[0].whole else x
    updated, activation = [], None
    for layer, p, s in zip(model, params, stats, strict=True):
        if activation and (layer.activation or not layer.keeps_order):
            x, activation = activation(x), None
        x, s = layer.apply(p, s, x, train)
        updated.append(s)
        activation = layer.activation or activation
    x = activation(x) if activation else x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{model[-1].name} makes {x.dtype}, where real numbers are needed")
    return x.astype(jnp.float32), tuple(updated)


def described(model: Model, x: Array) -> list[dict[str, Any]]:
    """The layers in order, each with its `name` and `steps`, see `jfedsl.models.steps`.

    Args:
      model: the whole model.
      x: a sample batch `[1, ...]`; only its shape and dtype matter.
    """
    found: list[dict[str, Any]] = []

    def traced(x: Array) -> Array:
        for layer in model:
            params, stats = layer.init(jax.random.key(0), x)
            with recording(layer.name) as parts:
                y, _ = layer.apply(params, stats, x, False)
            own: list[Step] = [{"op": "own"}]
            steps = own if layer.steps is None else layer.steps(x.shape, parts)
            found.append({"name": layer.name, "steps": [*steps, *of_function(layer.activation)]})
            x = y
        return x

    jax.eval_shape(traced, x)
    return found


def cut_index(model: Model, cut: str) -> int:
    """Number of layers before the cut, from a layer's name or a count written in digits.

    Args:
      model: the whole model.
      cut: the name of the last client-side layer, or the number of client-side layers.

    Raises:
      ValueError: unknown name, or a cut that leaves one half without layers. The text follows
        "--cut must be" in an error line.
    """
    names = [layer.name for layer in model]
    index = int(cut) if re.fullmatch("-?[0-9]{1,9}", cut) else [*names, cut].index(cut) + 1
    if not 0 < index < len(model):
        listed = ", ".join(names[:-1])
        allowed = f"one of {listed}, or a number from 1 to {len(model) - 1}"
        raise ValueError(f"{allowed}, not {as_text(cut)}{close_to(cut, names[:-1])}")
    return index


def prunable(params: Params, model_layers: int | None = None) -> Any:
    """Which leaves may be pruned: kernels, but none of the model's last layer.

    Args:
      params: parameters of the first layers of a model.
      model_layers: how many layers the whole model has; None when `params` never reach its end.

    Returns:
      A tree like `params` with a Python bool at every leaf.
    """

    def one(path: Sequence[Any], leaf: Array) -> bool:
        last = model_layers is not None and path[0].idx == model_layers - 1
        return path[-1] == jax.tree_util.DictKey("kernel") and leaf.ndim > 1 and not last

    return jax.tree_util.tree_map_with_path(one, params)
