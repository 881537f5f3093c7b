"""A model is a tuple of layers, so cutting it is slicing it.

Variables are tuples as long as the model. In a slice every layer keeps its
parameters under the same names, whatever the cut; Flax's `Sequential` and nnx renumber them.

>>> model = (from_linen("dense", nn.Dense(4), nn.relu), from_linen("logits", nn.Dense(2)))
>>> params, stats, _ = init(model, jax.random.key(0), jnp.ones((1, 3)))
>>> smashed, _ = apply(model[:1], params[:1], stats[:1], jnp.ones((5, 3)), train=True)
>>> smashed.shape
(5, 4)
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from jfedsl.keys import fold
from jfedsl.models.frozen import bound as bound
from jfedsl.models.frozen import with_frozen as with_frozen
from jfedsl.models.frozen import without_frozen as without_frozen
from jfedsl.models.padding import without_padding
from jfedsl.models.steps import Describe, Step, describe_module, function_steps

Params = Any
Stats = Any
Frozen = Any


class Variables(NamedTuple):
    """The variables of a model, tuples with one tree a layer.

    Attributes:
      params: trained, sent and averaged.
      stats: normalisation statistics.
      frozen: arrays of any type that all clients share and nothing changes, such as pretrained
        kernels; `{}` of a layer that has none, and `()` where no layer has any.
    """

    params: Params
    stats: Stats
    frozen: Frozen = ()


Activation = Callable[[Array], Array]


class Channels(NamedTuple):
    """Channels that can be removed from a layer: those of its output, or inner ones.

    Attributes:
      size: number of channels.
      groups: number of normalisation groups, which consecutive channels form; equally many channels
        are removed from every group.
      resized: `size -> Layer`, the layer with another number of channels in as many groups.
    """

    size: int
    groups: int
    resized: Callable[[int], "Layer"]


class Layer(NamedTuple):
    """One layer as pure functions: weights with their normalisation and activation, or a reshaping.

    Attributes:
      name: unique in its model; a cut is named by the last layer before it.
      init: `(key, x[B, ...]) -> (params, stats)`, each `{}` where the layer has none; or
        `(params, stats, frozen)`.
      apply: `(params, stats, x, train) -> (y, stats)`; `train` picks batch over running statistics.
        A layer with frozen variables takes them as `frozen=`, see `with_frozen`; one that looks at
        several positions of a sequence takes `lengths=`, int32 `[B]` or None.
      activation: applied to the output of `apply`; elementwise and nondecreasing. None for none.
      keeps_order: whether `apply` commutes with elementwise nondecreasing functions, as max-pooling
        does. An activation right before such a layer runs after it instead, on fewer entries.
      channels: the channels that can be removed; None where all have to stay.
      integer_inputs: whether the layer takes int32 inputs, see `tokens.with_integer_inputs`.
      lengths: of a first layer of padded sequences: from inputs `[B, T, ...]` to the number of
        positions of each that are not padding, int32 `[B]`, see `tokens.padded`; None for others.
      takes_lengths: whether `apply` takes `lengths=`.
      start: from the shapes of its variables to the values they start with, such as those of a
        pretrained model; None in the place of those that `init` draws. None: all are drawn.
      steps: describes what `apply` computes, for other programs; None where that is not known.
    """

    name: str
    init: Callable[[Array, Array], tuple[Any, ...]]
    apply: Callable[..., tuple[Array, Stats]]
    activation: Activation | None = None
    keeps_order: bool = False
    channels: Channels | None = None
    integer_inputs: bool = False
    lengths: Callable[[Array], Array] | None = None
    takes_lengths: bool = False
    start: Callable[[Variables], Variables] | None = None
    steps: Describe | None = None


Model = tuple[Layer, ...]


def from_linen(
    name: str,
    module: nn.Module,
    activation: Activation | None = None,
    width: str | None = None,
    groups: int = 1,
) -> Layer:
    """Wraps a Flax linen module as a layer; its `__call__` may take `train` and `lengths`.

    >>> from_linen("embed", nn.Embed(1000, 32)).name
    'embed'

    Args:
      name: unique in the model.
      module: unbound; may have the collections `params`, `batch_stats` and `frozen`, which
        it only reads, and draws no random numbers, as Flax's dropout would.
      activation: elementwise and nondecreasing; runs after the module, or after pooling that
        follows it. Any other activation belongs into the module.
      width: name of the module's field with its number of channels, such as `features`, if channels
        can be removed. Each channel must be computed in the same way whatever that number is.
      groups: number of normalisation groups of these channels.

    Raises:
      ValueError: from `init`, where the module has other collections.
    """
    taken = {"train", "lengths"} & inspect.signature(type(module).__call__).parameters.keys()

    def options(**given: Any) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in taken}

    def init(key: Array, x: Array) -> tuple[Any, ...]:
        collections = {**module.init(key, x, **options(train=False, lengths=None))}
        held = tuple(collections.pop(kind, {}) for kind in ("params", "batch_stats", "frozen"))
        if collections:
            allowed = "modules may hold params, batch_stats and frozen"
            raise ValueError(f"{name} holds {', '.join(collections)}; {allowed}")
        return held if held[2] else held[:2]

    def apply(
        params: Params, stats: Stats, x: Array, train: bool, frozen: Frozen = None,
        lengths: Array | None = None,
    ) -> tuple[Array, Stats]:  # fmt: skip
        given = options(train=train, lengths=lengths)
        variables = {"params": params, "batch_stats": stats, "frozen": frozen or {}}
        updated: Any = {"batch_stats": stats}
        y: Any
        if train and stats:
            y, updated = module.apply(variables, x, mutable=["batch_stats"], **given)
        else:
            y = module.apply(variables, x, **given)
        return y, updated["batch_stats"]

    def resized(size: int) -> Layer:
        changed: dict[str, Any] = {str(width): size}
        return from_linen(name, module.clone(**changed), activation, width, groups)

    channels = None if width is None else Channels(getattr(module, width), groups, resized)
    wrapped = Layer(name, init, apply, activation, takes_lengths="lengths" in taken)
    return wrapped._replace(channels=channels, steps=describe_module(module))


def from_function(
    name: str, function: Callable[[Array], Array], keeps_order: bool = False,
    step: Step | None = None,
) -> Layer:  # fmt: skip
    """Wraps a function without parameters, such as pooling, as a layer.

    >>> from_function("mean", lambda x: x.mean(axis=1)).name
    'mean'

    Args:
      name: unique in the model.
      function: `x[B, ...] -> y[B, ...]`.
      keeps_order: whether `function` commutes with elementwise nondecreasing functions, as
        max-pooling does.
      step: what `function` computes, one of `steps.MEANINGS`; default a user-defined function.
    """
    steps = function_steps(function) if step is None else [step]
    return Layer(
        name,
        lambda key, x: ({}, {}),
        lambda params, stats, x, train: (function(x), stats),
        keeps_order=keeps_order,
        steps=lambda shape, parts: steps,
    )


def init(model: Model, key: Array, x: Array) -> Variables:
    """Initial variables; layer i draws from fold_in(key, i), whatever the cut.

    Args:
      model: the whole model.
      key: scalar PRNG key.
      x: a sample batch `[B, ...]`; only its shape and dtype matter.

    Raises:
      ValueError: two layers have the same name, or the output of a layer is empty, as of pooling on
        a small image, or not an array, or has another number of padded positions than the input.
    """
    names = [layer.name for layer in model]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"two layers are named {repeated[0]}")
    variables: list[Variables] = []
    positions = None if lengths_of(model, x) is None else x.shape[1]
    for i, layer in enumerate(model):
        fresh = init_layer(layer, fold(key, i), x)
        variables.append(fresh)
        y, _ = bound(layer, fresh.frozen).apply(fresh.params, fresh.stats, x, False)
        if not isinstance(y, Array) or y.size == 0:
            output = list(y.shape) if isinstance(y, Array) else type(y).__name__
            raise ValueError(f"{layer.name} makes {output} of {list(x.shape)}")
        if positions is not None and y.ndim > 2 and y.shape[1] != positions:
            raise ValueError(f"{layer.name} makes {y.shape[1]} of {positions} padded positions")
        x = y
    whole = Variables(*zip(*variables, strict=True)) if variables else Variables((), ())
    return whole if any(whole.frozen) else whole._replace(frozen=())


def init_layer(layer: Layer, key: Array, x: Array) -> Variables:
    """Initial variables of one layer, `{}` each where it has none; arguments as for `init`."""
    made = layer.init(key, x)
    return Variables(made[0], made[1], made[2] if len(made) == 3 else {})


def by_layer(model: Model, variables: Variables) -> list[tuple[Layer, Variables]]:
    """Each layer with its own variables, `{}` each where it has none."""
    frozen: Frozen = variables.frozen or ({},) * len(model)
    parts = zip(variables.params, variables.stats, frozen, strict=True)
    return [(layer, Variables(*part)) for layer, part in zip(model, parts, strict=True)]


def lengths_of(model: Model, inputs: Array) -> Array | None:
    """Positions of inputs `[B, T, ...]` that are no padding, int32 `[B]`; None without padding."""
    return model[0].lengths(inputs) if model and model[0].lengths is not None else None


def apply(
    model: Model, params: Params, stats: Stats, x: Array, train: bool,
    dtype: DTypeLike = jnp.float32, lengths: Array | None = None,
) -> tuple[Array, Stats]:  # fmt: skip
    """Runs the layers in order.

    Every layer leaves 0 where sequences are padded; how much that is changes nothing else.

    Args:
      model: consecutive layers, with their frozen variables if they have any.
      params: parameters of each layer, float32.
      stats: normalisation statistics of each layer, float32; never rounded to `dtype`.
      x: input `[B, ...]`, float32, or int32 for a first layer of whole numbers.
      train: whether normalisation uses the batch's statistics.
      dtype: that parameters and activations are rounded to, and products computed in.
      lengths: of the sequences of `x`, int32 `[B]`; None where the first layer of the model, which
        says them, is among these, or nothing is padded.

    Returns:
      The output `[B, ...]`, float32, and the new statistics.

    Raises:
      ValueError: the last layer makes whole numbers, which have no gradient.
    """
    params = jax.tree.map(lambda w: w.astype(dtype), params)
    lengths = lengths_of(model, x) if lengths is None else lengths
    # Integers are not rounded: bfloat16 would round token ids above 256.
    x = x.astype(dtype) if model and not model[0].integer_inputs else x
    updated, pending = [], None
    for layer, p, s in zip(model, params, stats, strict=True):
        # An activation waits until after pooling, which leaves it a fraction of the entries.
        if pending and (layer.activation or not layer.keeps_order):
            x, pending = without_padding(pending(x), lengths), None
        given = {"lengths": lengths} if layer.takes_lengths else {}
        x, s = layer.apply(p, s, x, train, **given)
        x = without_padding(x, lengths)
        if layer.integer_inputs and jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(dtype)  # of a frozen table, which is as it is stored
        updated.append(s)
        pending = layer.activation or pending
    x = without_padding(pending(x), lengths) if pending else x
    if model and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{model[-1].name} makes {x.dtype}, where real numbers are needed")
    return x.astype(jnp.float32), tuple(updated)
