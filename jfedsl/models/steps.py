"""What layers compute, as plain values: steps that another program can follow without this one.

A step is a dict: `op`, one of `MEANINGS`, all numbers that it needs, and under `arrays` the names
of its arrays. What only its author can describe is the step `own`, with names and settings.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn
from jax import Array, lax

Step = dict[str, Any]
# From the shape of a layer's input `[1, ...]` and the steps of the modules that it calls, in order.
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
    "own": "a layer of the user's own, by the names and settings that it has there",
}
# Fields of modules that say how weights begin or are computed in, not what is computed.
_ASIDE = {"parent", "name", "dtype", "param_dtype", "precision", "kernel_init", "bias_init"}
_COLLECTIONS = {"params": "params", "batch_stats": "stats"}


@contextlib.contextmanager
def recording(layer: str) -> Iterator[list[Step]]:
    """Inside, modules of known kinds leave their step in the list as they are called.

    Args:
      layer: name of the layer, for those of arrays.
    """
    found: list[Step] = []

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        y = call(*arguments, **options)
        known = _MODULES.get(type(context.module))
        if known is not None and context.method_name == "__call__":
            arrays = _arrays(context.module, layer)
            found.append({**known(context.module, arguments[0]), "arrays": arrays})
        return y

    with nn.intercept_methods(intercept):
        yield found


def _arrays(module: nn.Module, layer: str) -> dict[str, str]:
    return {
        name: ".".join((_COLLECTIONS[collection], layer, *module.path, name))
        for collection, leaves in module.variables.items()
        for name in leaves
    }


def of_module(module: nn.Module) -> Describe:
    """How to describe a module: as itself says, by the one known module that it is, or as `own`."""
    if hasattr(module, "steps"):
        return lambda shape, parts: module.steps(parts)
    if type(module) in _MODULES:
        return lambda shape, parts: list(parts)
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.init}
    settings = {name: _plain(value) for name, value in fields.items() if name not in _ASIDE}
    own = {"op": "own", "module": type(module).__qualname__, "settings": settings}
    return lambda shape, parts: [own]


def of_function(function: Callable[[Array], Array] | None) -> list[Step]:
    """The step of a function of one array; none where there is no function."""
    if function is None:
        return []
    name = _plain(function)
    return [{"op": "relu"} if name == "relu" else {"op": "own", "function": name}]


def _plain(value: Any) -> Any:
    """A value as JSON has it, functions and classes by name."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return getattr(value, "__name__", type(value).__qualname__)


def _convolution(module: nn.Conv, x: Array) -> Step:
    size = tuple(module.kernel_size) if isinstance(module.kernel_size, Sequence) else ()
    rank = len(size) or 1
    strides, dilation, spread = (
        _each(value, rank)
        for value in (module.strides, module.kernel_dilation, module.input_dilation)
    )
    padding: Any = module.padding
    if padding in ("SAME", "VALID"):
        spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
        sides = [(n - 1) * d + 1 for n, d in zip(x.shape[1:-1], spread, strict=True)]
        padding = lax.padtype_to_pads(sides, spans, strides, padding)
    return {
        "op": "convolution",
        "strides": strides,
        "padding": _plain(padding),
        "kernel_dilation": dilation,
        "input_dilation": spread,
        "groups": module.feature_group_count,
    }


def _each(value: Any, rank: int) -> list[int]:
    """One number for each side, from one for all, several, or None for 1."""
    return list(value) if isinstance(value, Sequence) else [value or 1] * rank


def _group_norm(module: nn.GroupNorm, x: Array) -> Step:
    groups = module.num_groups or x.shape[-1] // (module.group_size or 1)
    return {"op": "group_norm", "groups": groups, "epsilon": module.epsilon}


_MODULES: dict[type, Callable[[Any, Array], Step]] = {
    nn.Conv: _convolution,
    nn.Dense: lambda module, x: {"op": "dense"},
    nn.GroupNorm: _group_norm,
    nn.BatchNorm: lambda module, x: {"op": "batch_norm", "epsilon": module.epsilon},
}
