"""Descriptions of layers as plain values, which another program can follow to compute a model.

A description is a list of steps. A step is a dict with `op`, one of `MEANINGS`, the settings of the
operation, and under `arrays` the names of its arrays. A user-defined module or function is the step
`custom`, with its name and settings.

>>> function_steps(nn.relu)
[{'op': 'relu'}]
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn
from jax import Array, lax

from jfedsl.nn.conv_forms import dilated_extent

Step = dict[str, Any]
# `(shape, parts) -> steps`: from the shape `[1, ...]` of a layer's input, and the steps of the
# modules that it calls, in order.
Describe = Callable[[tuple[int, ...], Sequence[Step]], list[Step]]

MEANINGS = {
    "zero_pad": "zeros before and after, by `padding` of height and width",
    "convolution": "cross-correlation of [batch, height, width, channels] with a kernel [height, "
    "width, in / groups, out], zeros by `padding`; then + bias, if there is one",
    "dense": "x @ kernel, kernel [in, out]; then + bias, if there is one",
    "group_norm": "for each example: channels in `groups` of neighbours; (x - mean) / "
    "sqrt(variance + epsilon) with mean and variance (divided by the count) over all positions and "
    "channels of the group; then * scale + bias by channel",
    "batch_norm": "(x - mean) / sqrt(var + epsilon) * scale + bias by channel, mean and var the "
    "arrays",
    "relu": "max(x, 0)",
    "max_pool": "maximum of each window; rows and columns that fill no window are cropped",
    "mean": "mean over `axes` of [batch, ...]",
    "flatten": "[batch, ...] to [batch, D], the last axis fastest",
    "residual": "steps of `main` and those of `shortcut` (none: x itself), added",
    "custom": "a layer of the user's own, by the names and settings that it has there",
}
# Fields of modules that do not change what is computed: names, dtypes and initialisers.
_IGNORED_FIELDS = {
    "parent",
    "name",
    "dtype",
    "param_dtype",
    "precision",
    "kernel_init",
    "bias_init",
}
_COLLECTIONS = {"params": "params", "batch_stats": "stats", "frozen": "frozen"}


@contextlib.contextmanager
def record_steps(layer: str) -> Iterator[list[Step]]:
    """Yields a list to which each call of a Flax module of a known type adds its step.

    Args:
      layer: name of the layer, with which the names of arrays begin.
    """
    steps: list[Step] = []

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        y = call(*arguments, **options)
        step_of = _STEPS_OF_MODULES.get(type(context.module))
        if step_of is not None and context.method_name == "__call__":
            arrays = _array_names(context.module, layer)
            steps.append({**step_of(context.module, arguments[0]), "arrays": arrays})
        return y

    with nn.intercept_methods(intercept):
        yield steps


def _array_names(module: nn.Module, layer: str) -> dict[str, str]:
    """Full names, such as `params.conv1.Conv_0.kernel`, by the names that the module uses."""
    return {
        name: ".".join((_COLLECTIONS[collection], layer, *module.path, name))
        for collection, leaves in module.variables.items()
        for name in leaves
    }


def describe_module(module: nn.Module) -> Describe:
    """The description of a module: by its method `steps`, by its known type, or as `custom`."""
    if hasattr(module, "steps"):
        return lambda shape, parts: module.steps(parts)
    if type(module) in _STEPS_OF_MODULES:
        return lambda shape, parts: list(parts)
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.init}
    settings = {
        name: _to_json(value) for name, value in fields.items() if name not in _IGNORED_FIELDS
    }
    step = {"op": "custom", "module": type(module).__qualname__, "settings": settings}
    return lambda shape, parts: [step]


def function_steps(function: Callable[[Array], Array] | None) -> list[Step]:
    """The step of a function of one array; no steps for None."""
    if function is None:
        return []
    name = _to_json(function)
    return [{"op": "relu"} if name == "relu" else {"op": "custom", "function": name}]


def _to_json(value: Any) -> Any:
    """A value that JSON can hold; functions and classes become their names."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, dict):
        return {str(name): _to_json(entry) for name, entry in value.items()}
    return getattr(value, "__name__", type(value).__qualname__)


def _convolution(module: nn.Conv, x: Array) -> Step:
    size = tuple(module.kernel_size) if isinstance(module.kernel_size, Sequence) else ()
    rank = len(size) or 1
    strides, kernel_dilation, input_dilation = (
        _per_dimension(value, rank)
        for value in (module.strides, module.kernel_dilation, module.input_dilation)
    )
    padding: Any = module.padding
    if padding in ("SAME", "VALID"):
        kernel_extents = [*map(dilated_extent, size, kernel_dilation)]
        extents = [*map(dilated_extent, x.shape[1:-1], input_dilation)]
        padding = lax.padtype_to_pads(extents, kernel_extents, strides, padding)
    return {
        "op": "convolution",
        "strides": strides,
        "padding": _to_json(padding),
        "kernel_dilation": kernel_dilation,
        "input_dilation": input_dilation,
        "groups": module.feature_group_count,
    }


def _per_dimension(value: Any, rank: int) -> list[int]:
    """A number for each spatial dimension, from one for all, a sequence, or None for 1."""
    return list(value) if isinstance(value, Sequence) else [value or 1] * rank


def _group_norm(module: nn.GroupNorm, x: Array) -> Step:
    groups = module.num_groups or x.shape[-1] // (module.group_size or 1)
    return {"op": "group_norm", "groups": groups, "epsilon": module.epsilon}


_STEPS_OF_MODULES: dict[type, Callable[[Any, Array], Step]] = {
    nn.Conv: _convolution,
    nn.Dense: lambda module, x: {"op": "dense"},
    nn.GroupNorm: _group_norm,
    nn.BatchNorm: lambda module, x: {"op": "batch_norm", "epsilon": module.epsilon},
}
