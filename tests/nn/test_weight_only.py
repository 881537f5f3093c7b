"""Weights in few bits: within half a step, and as small as they say."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.nn.weight_only import decode, encode, group_size


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
