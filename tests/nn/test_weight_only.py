"""Weights in few bits: within half a step, and as small as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jfedsl.nn.weight_only import decode, encode, group_size, product


@pytest.mark.parametrize("width", [1, 7, 64, 130, 192])
@pytest.mark.parametrize(("storage", "levels"), [("int8", 127), ("int4", 7)])
def test_decoded_weights_are_within_half_a_step(width: int, storage: str, levels: int) -> None:
    weights = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    weights[2] = 0
    stored = encode(weights, storage)
    assert stored["codes"].nbytes == 5 * (width if storage == "int8" else -(-width // 2))
    made = np.asarray(decode(*map(jnp.asarray, stored.values()), width))
    grouped = weights.reshape(5, -1, group_size(width))
    step = np.abs(grouped).max(axis=-1, keepdims=True) / levels
    error = np.abs(made.reshape(grouped.shape) - grouped)
    assert (error <= step / 2 + 1e-6).all()
    assert not made[2].any()
    # The entry of the largest magnitude of a group is exact.
    largest = np.take_along_axis(error, np.abs(grouped).argmax(-1)[..., None], axis=-1)
    assert largest.max() < 1e-6


WIDTH, ROWS = 7, 5


def forms(storage: str) -> tuple[tuple[Array, ...], bool, Array]:
    """A frozen matrix as it is stored, whether by column, and its decoded values `[N, R]`."""
    rows = np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)
    if storage in ("int8", "int4"):
        stored = tuple(map(jnp.asarray, encode(rows, storage).values()))
        return stored, True, decode(*stored, WIDTH).T
    matrix = jnp.asarray(rows, storage)
    return (matrix,), False, matrix.T.astype(jnp.float32)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "int4"])
def test_a_product_with_a_frozen_matrix_is_the_plain_one_but_keeps_no_copy(storage: str) -> None:
    stored, by_column, matrix = forms(storage)
    x, g = (
        jnp.asarray(np.random.default_rng(n).normal(size=(3, 2, n)), jnp.float32) for n in (7, 5)
    )

    def mapped(x: Array) -> Array:
        return jax.vmap(lambda one: product(one, stored, by_column))(x)

    y, vjp = jax.vjp(mapped, x)
    np.testing.assert_allclose(y, x @ matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(vjp(g)[0], g @ matrix.T, rtol=1e-5, atol=1e-5)
    kept = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(vjp)}
    assert kept == {(leaf.shape, leaf.dtype) for leaf in stored}


def test_a_kernel_as_it_is_has_its_inputs_first() -> None:
    x, kernel = jnp.ones((2, 3)), jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(product(x, (kernel,), True), x @ kernel)
