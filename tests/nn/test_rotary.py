"""Rotary positions against complex numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.nn.rotary import frequencies, rotate


def test_pairs_turn_by_their_angle_times_the_position() -> None:
    angles = frequencies(6, 100.0)
    np.testing.assert_allclose(angles, [1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 6)).astype(np.float32)
    pairs = x[..., :3] + 1j * x[..., 3:]
    turned = pairs * np.exp(1j * np.arange(5)[:, None] * angles)[None, :, None, :]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(jnp.asarray(x), angles), expected, atol=1e-5)


def test_scalings_slow_angles_down() -> None:
    plain = frequencies(8, 1e4)
    np.testing.assert_allclose(frequencies(8, 1e4, {"type": "linear", "factor": 4.0}), plain / 4)
    with pytest.raises(ValueError, match="rope_type is one of default, linear, llama3, not yarn"):
        frequencies(8, 1e4, {"rope_type": "yarn"})
