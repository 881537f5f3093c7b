"""The map over clients equals a Python loop for every chunk size."""

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_close

from jfedsl.sharding.client_map import default_chunk, map_clients


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("clients", [1, 5, 7])
def test_any_chunk_equals_a_loop_also_through_vjp(chunk, clients):
    w = jax.random.normal(jax.random.key(0), (clients, 3, 2))
    x = jax.random.normal(jax.random.key(1), (clients, 4, 3))

    def forward(w, x):
        y, vjp = jax.vjp(lambda w: jnp.tanh(x @ w), w)
        return {"y": y, "vjp": vjp}

    mapped = map_clients(forward, chunk)(w, x)
    (gradient,) = map_clients(lambda vjp, y: vjp(y), chunk)(mapped["vjp"], mapped["y"])
    for n in range(clients):
        y, vjp = jax.vjp(lambda w, n=n: jnp.tanh(x[n] @ w), w[n])
        assert_close(mapped["y"][n], y)
        assert_close(gradient[n], vjp(y)[0])


def test_default_chunk_loops_over_convolutions_on_cpu_only():
    convolution, dense = {"kernel": jnp.zeros((3, 3, 1, 2))}, {"kernel": jnp.zeros((4, 2))}
    assert default_chunk("cpu", convolution, 9) == 1
    assert default_chunk("cpu", dense, 9) == 9
    assert default_chunk("gpu", convolution, 9) == 9
