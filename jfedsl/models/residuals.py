"""What the backward pass of a function keeps of its forward pass, from shapes alone."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jfedsl.models.layers import Params
from jfedsl.nn.reference import plain_operations

# Operations that can return their operand under another shape, or as it is.
_VIEWS = {
    "broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "pad", "reshape", "squeeze",
}  # fmt: skip


def residual_bytes(
    run: Callable[..., tuple[Array, Any]], params: Params, *inputs: Any
) -> tuple[int, int]:
    """Bytes of the arrays that `run` computes and its backward pass by `params` reads.

    Both passes are traced in the plain operations of lax and Flax. Of the leaves of `jax.vjp`, the
    residuals,

    - those that are `params` or `inputs`, maybe in another shape, do not count;
    - an array kept twice counts once;
    - those that no operation of the backward pass reads do not count: `jax.nn.relu` leaves an array
      of zeros, one an entry, besides the sign.

    Copies of `params` and `inputs` in another type count, for they are arrays of their own.

    Args:
      run: `(params, *inputs) -> (y, anything)`.
      params: arrays or shapes.
      inputs: trees of them.

    Returns:
      Bytes of the residuals, and bytes of `y`.
    """

    def forward(params: Params, inputs: Any) -> Any:
        y, back, _ = jax.vjp(lambda p: run(p, *inputs), params, has_aux=True)
        return back, y

    with plain_operations():
        there, (back, y) = jax.make_jaxpr(forward, return_shape=True)(params, inputs)
        again = jax.make_jaxpr(lambda back, y: back(y))(back, y).jaxpr
    origins, read = _origins(there.jaxpr), _operands(again)
    *leaves, output = zip(there.jaxpr.outvars, again.invars, strict=True)
    kept = {origins.get(v, v) for v, seen in leaves if seen in read and isinstance(v, Var)}
    return sum(map(_bytes, kept - {*there.jaxpr.invars})), _bytes(output[0])


def _operands(jaxpr: Jaxpr) -> set[Var]:
    """All that some operation reads or that is returned."""
    operands = [v for equation in jaxpr.eqns for v in equation.invars]
    return {v for v in (*operands, *jaxpr.outvars) if isinstance(v, Var)}


def _origins(jaxpr: Jaxpr) -> dict[Var, Var]:
    """For each array that is another one, maybe in another shape, that other one."""
    found: dict[Var, Var] = {}
    for equation in jaxpr.eqns:
        for made, source in zip(equation.outvars, _sources(equation), strict=True):
            if isinstance(source, Var):
                found[made] = found.get(source, source)
    return found


def _sources(equation: JaxprEqn) -> list[Any]:
    """For each result of an operation the array that it is, maybe in another shape.

    None for what the operation computes. A function compiled on its own may return an operand, or
    one array twice.
    """
    name, operands, made = equation.primitive.name, equation.invars, equation.outvars
    if name in ("jit", "pjit"):
        inner = equation.params["jaxpr"].jaxpr
        outer, views = dict(zip(inner.invars, operands, strict=True)), _origins(inner)
        return [
            None if isinstance(result, Literal) else outer.setdefault(views.get(result, result), v)
            for v, result in zip(made, inner.outvars, strict=True)
        ]
    padding = equation.params.get("padding_config", ())
    if name in _VIEWS and not any(map(any, padding)):
        same = _size(operands[0]) == _size(made[0])
        return [operands[0] if same else None]
    return [None] * len(made)


def _size(variable: Any) -> tuple[Any, int]:
    return variable.aval.dtype, variable.aval.size


def _bytes(variable: Any) -> int:
    return int(variable.aval.size * variable.aval.dtype.itemsize)
