"""FLOPs of the products in a traced program, forward and for its gradients.

A product is a `dot_general` or a `conv_general_dilated`. A multiply-add is 2 FLOPs. All taps of a
convolution count, those on padding too.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


class Products(NamedTuple):
    """FLOPs of the products of a program.

    Attributes:
      forward: of the program itself.
      backward: of its backward pass. A product costs its own FLOPs once more for each of its two
        operands that needs a gradient.
      needs_gradient: which results depend on an input that needs a gradient.
    """

    forward: int
    backward: int
    needs_gradient: tuple[bool, ...]


def products(program: Jaxpr, needs_gradient: Sequence[bool]) -> Products:
    """Counts the products of a program, and those that its backward pass computes.

    Called functions count as what they compute in the forward pass, whatever rule they have for
    their gradient, and however often they are computed again for it. The iterations of a scan all
    count. A while loop counts as one iteration, as nobody knows how many it takes; of the branches
    of a condition the most expensive one counts.

    >>> import jax
    >>> matrix = jax.ShapeDtypeStruct((5, 5), "float32")
    >>> program = jax.make_jaxpr(lambda w, x: x @ w)(matrix, matrix).jaxpr
    >>> products(program, [True, False])
    Products(forward=250, backward=250, needs_gradient=(True,))

    Args:
      program: as `jax.make_jaxpr` traces it.
      needs_gradient: of each input, whether the backward pass needs the gradient by it.
    """
    needed = dict(zip(program.invars, needs_gradient, strict=True))

    def is_needed(variable: Any) -> bool:
        return isinstance(variable, Var) and needed.get(variable, False)

    forward = backward = 0
    for equation in program.eqns:
        part = _of_equation(equation, [is_needed(v) for v in equation.invars])
        forward, backward = forward + part.forward, backward + part.backward
        results = zip(equation.outvars, part.needs_gradient, strict=True)
        # Whole numbers have no gradient.
        needed |= {v: flag and _is_real(v) for v, flag in results}
    return Products(forward, backward, tuple(is_needed(v) for v in program.outvars))


def _is_real(variable: Any) -> bool:
    return jnp.issubdtype(getattr(variable.aval, "dtype", jnp.int32), jnp.inexact)


def _of_equation(equation: JaxprEqn, operands: list[bool]) -> Products:
    name, results = equation.primitive.name, len(equation.outvars)
    flops = _flops(equation)
    if flops is not None:
        return Products(flops, flops * sum(operands), (any(operands),))
    if name == "stop_gradient":
        return Products(0, 0, (False,) * results)
    if name == "scan":
        return _of_scan(equation.params, operands)
    if name == "while":
        before = equation.params["cond_nconsts"]
        body, constants = equation.params["body_jaxpr"].jaxpr, equation.params["body_nconsts"]
        return _of_body(body, operands[before:], constants, results)
    if name == "cond":
        branches = [products(b.jaxpr, operands[1:]) for b in equation.params["branches"]]
        forward, backward, flags = zip(*branches, strict=True)
        return Products(max(forward), max(backward), tuple(map(any, zip(*flags, strict=True))))
    called = _called(equation)
    if called is not None:
        return products(called, operands)
    return Products(0, 0, (any(operands),) * results)


def _flops(equation: JaxprEqn) -> int | None:
    """FLOPs of a product; None of any other operation."""
    name = equation.primitive.name
    sizes, results = _shapes(equation.invars), _shapes(equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = math.prod(sizes[0][axis] for axis in contracted)
    elif name == "conv_general_dilated":
        features = equation.params["dimension_numbers"].rhs_spec[0]
        terms = math.prod(sizes[1]) // sizes[1][features]
    else:
        return None
    return int(2 * terms * math.prod(results[0]))


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [getattr(v.aval, "shape", ()) for v in variables]


def _of_scan(settings: dict[str, Any], operands: list[bool]) -> Products:
    body, constants, carried = (settings[key] for key in ("jaxpr", "num_consts", "num_carry"))
    part, length = _of_body(body.jaxpr, operands, constants, carried), settings["length"]
    return Products(length * part.forward, length * part.backward, part.needs_gradient)


def _of_body(body: Jaxpr, operands: list[bool], constants: int, carried: int) -> Products:
    """One iteration of a loop, where a carry needs a gradient if any iteration makes it need one.

    Args:
      body: of the loop: constants, carries and more to carries and more.
      operands: which of its inputs need a gradient at first.
      constants: how many of them are constants.
      carried: how many are carries.
    """
    end = constants + carried
    while True:
        part = products(body, operands)
        pairs = zip(operands[constants:end], part.needs_gradient[:carried], strict=True)
        carries = [before or after for before, after in pairs]
        if carries == operands[constants:end]:
            flags = (*carries, *part.needs_gradient[carried:])
            return part._replace(needs_gradient=flags)
        operands = [*operands[:constants], *carries, *operands[end:]]


def _called(equation: JaxprEqn) -> Jaxpr | None:
    """The program that an operation calls with its own operands; None without one."""
    programs = [
        value.jaxpr if isinstance(value, ClosedJaxpr) else value
        for value in equation.params.values()
        if isinstance(value, ClosedJaxpr | Jaxpr)
    ]
    fitting = [p for p in programs if len(p.invars) == len(equation.invars)]
    if len(programs) == 1 and fitting and len(fitting[0].outvars) == len(equation.outvars):
        return fitting[0]
    return None
