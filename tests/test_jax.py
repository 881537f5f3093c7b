"""The installed JAX computes right numbers, where a release did not."""

import jax
import jax.numpy as jnp
from jax import Array


def test_jitted_vmapped_matrix_vector_products_followed_by_a_reduction():
    # jax 0.10.2 on CPU gets the last row wrong (jax-ml/jax issue 39103).
    i = jnp.arange(32769, dtype=jnp.float32)
    x = jnp.stack((i, 0 * i, 0 * i), axis=1)

    def squares(x: Array) -> Array:
        return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)

    assert squares(x)[-1] == jax.jit(squares)(x)[-1] == 32768.0**2
