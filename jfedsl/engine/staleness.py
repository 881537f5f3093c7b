"""Weights of client parts that were trained from an older average than the one they come to.

A part is as old as the number of averages since its client received it. The forms are those of
asynchronous federated optimization (arXiv 1903.03934, section 5).
"""

import re
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

ALLOWED = "constant, poly(A) or hinge(A,B) with numbers A above 0 and B of 0 or more"

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_POLY = re.compile(rf"poly\({_NUMBER}\)")
_HINGE = re.compile(rf"hinge\({_NUMBER},\s*{_NUMBER}\)")


def parse(text: str) -> Callable[[Array], Array]:
    """The weight by age that a text describes; that of age 0 is 1.

    `constant` is 1; `poly(a)` is (1 + age)^-a; `hinge(a,b)` is 1 up to age b, and then
    1 / (a (age - b) + 1).

    >>> float(parse("hinge(0.5,2)")(jnp.float32(4)))
    0.5

    Args:
      text: one of these forms.

    Returns:
      A function from ages, float32 of any shape, to weights of that shape.

    Raises:
      ValueError: the text is something else.
    """
    if text == "constant":
        return jnp.ones_like
    if (match := _POLY.fullmatch(text)) and (power := float(match[1])) > 0:
        return lambda age: (1.0 + age) ** -power
    if (match := _HINGE.fullmatch(text)) and (slope := float(match[1])) > 0:
        free = float(match[2])
        return lambda age: 1.0 / (slope * jnp.maximum(age - free, 0.0) + 1.0)
    raise ValueError(f"{ALLOWED}, not {text!r}")


def is_valid(text: str) -> bool:
    """Whether `parse` takes a text."""
    try:
        parse(text)
    except ValueError:
        return False
    return True
