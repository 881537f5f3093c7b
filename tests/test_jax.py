"""The installed JAX is not one of the releases that compute wrong numbers."""

import subprocess
import sys

# jax 0.10.2 on CPU gets the last row wrong (jax-ml/jax issue 39103).
PROGRAM = """
import jax
import jax.numpy as jnp

i = jnp.arange(32769, dtype=jnp.float32)
x = jnp.stack((i, 0 * i, 0 * i), axis=1)
f = lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)
assert f(x)[-1] == jax.jit(f)(x)[-1] == 32768.0**2
"""


def test_jitted_vmapped_matrix_vector_products_followed_by_a_reduction():
    # In another process, as the compiler settings of the tests would hide the error.
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
