"""Activations whose backward pass keeps nothing but their input."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array, lax

Activation = Callable[[Array], Array]


def keeping_input(activation: Activation) -> Activation:
    """The same function; its backward pass computes the derivative from the input again.

    Differentiated as it is, an activation of several operations keeps an array for each of them.

    Args:
      activation: elementwise.
    """

    @jax.custom_vjp
    def apply(x: Array) -> Array:
        return activation(x)

    def backward(x: Array, gradient: Array) -> tuple[Array]:
        (by_x,) = jax.vjp(activation, x)[1](gradient)
        return (by_x,)

    apply.defvjp(lambda x: (activation(x), x), backward)
    return apply


def _gelu(x: Array) -> Array:
    # `jax.nn.gelu` has erfc, which takes several times as long as erf on CPU. They differ in what
    # float32 can tell of results near 0.
    half = np.array(0.5, x.dtype)
    return x * (half + half * lax.erf(x * np.sqrt(half)))


gelu = keeping_input(_gelu)  # exact: x times the normal distribution function (arXiv 1606.08415)
gelu_tanh = keeping_input(jax.nn.gelu)
silu = keeping_input(jax.nn.silu)
