"""Bytes of the residuals that a backward pass keeps of its forward pass, from shapes alone."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jfedsl.models.layers import Params
from jfedsl.nn.lax_only import lax_only

# Primitives that may only reshape or return their operand, without a new array.
_VIEWS = {
    "broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "pad", "reshape", "squeeze",
}  # fmt: skip


def residual_bytes(
    run: Callable[..., tuple[Array, Any]], params: Params, *inputs: Any
) -> tuple[int, int]:
    """Bytes of the residuals of `run`, and of its output.

    Residuals are the arrays that the forward pass computes and the backward pass by `params` reads.
    Both passes are traced with the operations of lax and Flax, and the leaves of the function that
    `jax.vjp` returns are counted as follows:

    - an array that is one of `params` or `inputs`, maybe in another shape, does not count;
    - an array kept twice counts once;
    - an array that the backward pass never reads does not count: `jax.nn.relu` keeps an array of
      zeros besides the signs;
    - a copy of `params` or `inputs` in another dtype counts.

    >>> w, x = jax.ShapeDtypeStruct((3, 5), "float32"), jax.ShapeDtypeStruct((2, 3), "float32")
    >>> residual_bytes(lambda w, x: (jax.nn.relu(x @ w), None), w, x)  # signs [2, 5], and y [2, 5]
    (10, 40)

    Args:
      run: `(params, *inputs) -> (y, anything)`.
      params: tree of arrays or shapes.
      *inputs: trees of arrays or shapes.

    Returns:
      Bytes of the residuals, and bytes of `y`.
    """

    def forward(params: Params, inputs: Any) -> Any:
        y, vjp, _ = jax.vjp(lambda p: run(p, *inputs), params, has_aux=True)
        return vjp, y

    with lax_only():
        forward_jaxpr, (vjp, y) = jax.make_jaxpr(forward, return_shape=True)(params, inputs)
        backward_jaxpr = jax.make_jaxpr(lambda vjp, y: vjp(y))(vjp, y).jaxpr
    origins, read = _origins(forward_jaxpr.jaxpr), _operands(backward_jaxpr)
    # What the forward pass returns, the leaves of vjp and then y, is what the backward pass takes.
    *leaves, output = zip(forward_jaxpr.jaxpr.outvars, backward_jaxpr.invars, strict=True)
    kept = {
        origins.get(made, made) for made, taken in leaves if taken in read and isinstance(made, Var)
    }
    return sum(map(_bytes, kept - {*forward_jaxpr.jaxpr.invars})), _bytes(output[0])


def _operands(jaxpr: Jaxpr) -> set[Var]:
    """All variables that an operation reads or that the program returns."""
    operands = [v for equation in jaxpr.eqns for v in equation.invars]
    return {v for v in (*operands, *jaxpr.outvars) if isinstance(v, Var)}


def _origins(jaxpr: Jaxpr) -> dict[Var, Var]:
    """For each variable that only renames or reshapes another one, the one that it goes back to."""
    origins: dict[Var, Var] = {}
    for equation in jaxpr.eqns:
        for result, source in zip(equation.outvars, _sources(equation), strict=True):
            if isinstance(source, Var):
                origins[result] = origins.get(source, source)
    return origins


def _sources(equation: JaxprEqn) -> list[Any]:
    """For each result of an operation the array that it is, maybe in another shape.

    The source of what the operation computes is None. A jitted function may return an operand, or
    one array twice.
    """
    name, operands, results = equation.primitive.name, equation.invars, equation.outvars
    if name in ("jit", "pjit"):
        inner = equation.params["jaxpr"].jaxpr
        outer, origins = dict(zip(inner.invars, operands, strict=True)), _origins(inner)
        return [
            None
            if isinstance(inner_result, Literal)
            # A new array goes by its first name outside, so that one returned twice is one array.
            else outer.setdefault(origins.get(inner_result, inner_result), result)
            for result, inner_result in zip(results, inner.outvars, strict=True)
        ]
    padding = equation.params.get("padding_config", ())
    if name in _VIEWS and not any(map(any, padding)):
        is_view = _dtype_and_size(operands[0]) == _dtype_and_size(results[0])
        return [operands[0] if is_view else None]
    return [None] * len(results)


def _dtype_and_size(variable: Any) -> tuple[Any, int]:
    return variable.aval.dtype, variable.aval.size


def _bytes(variable: Any) -> int:
    return int(variable.aval.size * variable.aval.dtype.itemsize)
