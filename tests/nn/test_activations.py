"""Activations against those of JAX, and what they keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.nn import activations

PAIRS = {
    "gelu": (activations.gelu, partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": (activations.gelu_tanh, jax.nn.gelu),
    "silu": (activations.silu, jax.nn.silu),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_jax_and_the_input_alone_is_kept(
    name: str, dtype: jnp.dtype
) -> None:
    made, expected = PAIRS[name]
    x = jnp.linspace(-9, 9, 181).astype(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == jnp.float32 else {"atol": 0.03}
    g = jnp.cos(x)
    outputs, vjps = zip(*(jax.vjp(f, x) for f in (made, expected)), strict=True)
    assert outputs[0].dtype == dtype
    gradients = [vjp(g)[0] for vjp in vjps]
    for pair in (outputs, gradients):
        np.testing.assert_allclose(*(y.astype(jnp.float32) for y in pair), **tolerance)
    (kept,) = jax.tree.leaves(vjps[0])
    np.testing.assert_array_equal(kept, x)
