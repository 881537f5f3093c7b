"""The values of a pretrained model, as the layers of this package hold them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jfedsl.models.layers import Variables
from jfedsl.models.pretrained.contents import CheckpointError
from jfedsl.models.transformers.architecture import Source
from jfedsl.nn.weight_only import encode

_WEIGHTS = ("kernel", "embedding", "scale")

# One tensor of a pretrained model by its name, float32.
Read = Callable[[str], np.ndarray]
# Tables by tensor and dtype: one that is used at both ends of the model is held once.
Held = dict[tuple[str, ...], dict[str, Any]]


def starting_values(
    read: Read, sources: Mapping[str, Source], held: Held, shapes: Variables
) -> Variables:
    """Values of one layer, None in the place of those that are drawn at random.

    Args:
      read: one tensor of the pretrained model by its name.
      sources: of the modules of the layer, by their paths.
      held: values of tables, which this adds to.
      shapes: of the layer's variables.

    Raises:
      CheckpointError: a tensor is missing or has another shape.
    """
    kinds = {kind: getattr(shapes, kind) for kind in Variables._fields}
    wanted: dict[str, dict[str, Any]] = {}
    for (*module, leaf), shape in flatten_dict(kinds).items():
        wanted.setdefault("/".join(module[1:]), {})[leaf] = shape
    values = {
        module: _module_values(read, module, sources, held, leaves)
        for module, leaves in wanted.items()
    }

    def of(path: tuple[str, ...], shape: Any) -> Any:
        value = values["/".join(path[1:-1])].get(path[-1])
        if value is not None and value.shape != shape.shape:
            name = ".".join(path[1:])
            sizes = f"{list(value.shape)} in the pretrained model and {list(shape.shape)} here"
            raise CheckpointError(f"{name} is {sizes}")
        return value

    filled = {path: of(path, shape) for path, shape in flatten_dict(kinds).items()}
    trees = unflatten_dict(filled)
    return Variables(*(trees.get(kind, {}) for kind in Variables._fields))


def _module_values(
    read: Read, module: str, sources: Mapping[str, Source], held: Held, leaves: Mapping[str, Any]
) -> dict[str, Any]:
    """Values of those arrays of a module that come from the pretrained model, by their names."""
    lone = {leaf: sources[path] for leaf in leaves if (path := _joined(module, leaf)) in sources}
    values = {leaf: _array(source.weight(read(source.name))) for leaf, source in lone.items()}
    source = sources.get(module)
    if source is None:
        return values
    if "bias" in leaves:
        values["bias"] = _array(source.bias(read(f"{source.name}.bias")))
    name = next((n for leaf in leaves for n in _WEIGHTS if leaf in (n, f"{n}_codes")), None)
    if name is None:
        return values
    shape = leaves.get(name, leaves.get(f"{name}_codes"))
    # Tables of tokens are the large ones, and a tied one is at both ends of the model.
    key = (source.name, str(shape.dtype))
    if name == "embedding" and key in held:
        return values | held[key]
    tensor = source.weight(read(f"{source.name}.weight"))
    if name in leaves:
        made = {name: _array(tensor).astype(shape.dtype)}
    else:
        # Kernels `[in, out]` are stored by their columns, tables `[rows, width]` by their rows.
        rows = tensor.T if name == "kernel" else tensor
        coded = encode(np.ascontiguousarray(rows), "int4" if shape.dtype == jnp.uint8 else "int8")
        made = {f"{name}_{part}": _array(x) for part, x in coded.items()}
    if name == "embedding":
        held[key] = made
    return values | made


def _joined(module: str, leaf: str) -> str:
    return f"{module}/{leaf}" if module else leaf


def _array(values: np.ndarray) -> jax.Array:
    return jnp.asarray(np.ascontiguousarray(values))
