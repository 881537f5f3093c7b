"""Weights of innovations against the covariance that a Gauss-Markov process has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.wireless.gauss_markov import MOST, innovations


def covariance(memory: float, rounds: np.ndarray) -> np.ndarray:
    """Of the gains of all pairs of rounds, from innovations that they share, float64 `[R, R]`."""
    of_rounds = jax.jit(jax.vmap(partial(innovations, memory)))
    numbers, weights = map(np.asarray, of_rounds(jnp.asarray(rounds, jnp.int32)))
    assert all(len(set(row)) == len(row) for row in numbers.tolist())
    distinct, columns = np.unique(numbers, return_inverse=True)
    gains = np.zeros((len(rounds), len(distinct)))
    np.put_along_axis(gains, columns.reshape(numbers.shape), weights.astype(np.float64), axis=1)
    return gains @ gains.T


@pytest.mark.parametrize(
    ("memory", "rounds"),
    [
        (0.9, np.arange(600)),  # stretches of 256 rounds
        (0.3, 2**31 - 1 - np.arange(100)),
        (MOST, np.sort(np.random.default_rng(0).integers(0, 2**26, 200))),
        (1e-9, np.arange(9)),
    ],
)
def test_gains_are_correlated_as_a_power_of_the_memory(memory: float, rounds: np.ndarray) -> None:
    distance = np.abs(np.subtract.outer(rounds, rounds).astype(np.float64))
    np.testing.assert_allclose(covariance(memory, rounds), memory**distance, atol=1e-6)


def test_halving_takes_few_innovations() -> None:
    def count(memory: float) -> int:
        return jax.eval_shape(partial(innovations, memory), jnp.int32(5)).rounds.size

    assert [count(memory) for memory in (0.5, 0.9, 0.99, 0.999)] == [7, 10, 13, 17]
