"""Winograd's tiles: the convolution and its weight gradient, exact on whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array, lax

from jfedsl.nn import winograd
from jfedsl.nn.conv_forms import Padding


def lax_convolution(x: Array, w: Array, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@st.composite
def layers(draw: st.DrawFn) -> tuple[Array, Array, Padding]:
    """An input and a kernel of small whole numbers, with padding that makes the output even."""
    padding, sizes = [], []
    for _ in range(2):
        low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        size = draw(st.integers(1, 4)) * 2 + 2 - low - high
        sizes.append(size if size > 0 else size + 4)
        padding.append((low, high))
    batch, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    x = random.integers(-3, 4, (batch, *sizes, inputs))
    w = random.integers(-3, 4, (3, 3, inputs, outputs))
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), tuple(padding)


@settings(max_examples=5)
@given(layers())
def test_whole_numbers_are_exact(layer: tuple[Array, Array, Padding]) -> None:
    x, w, padding = layer
    y, pull_back = jax.vjp(lambda w: lax_convolution(x, w, padding), w)
    np.testing.assert_array_equal(winograd.convolution(x, w, padding), y, strict=True)
    dy = jnp.round(y / 7)
    np.testing.assert_array_equal(
        winograd.weight_gradient(x, dy, padding), pull_back(dy)[0], strict=True
    )


def test_real_numbers_agree_to_1e_6_with_the_sum_in_float64() -> None:
    draw, padding = np.random.default_rng(0), ((1, 1), (1, 1))
    x, w = (draw.normal(size=shape) for shape in ((4, 8, 8, 64), (3, 3, 64, 32)))
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    exact = sum(padded[:, i : i + 8, j : j + 8] @ w[i, j] for i in range(3) for j in range(3))
    with jax.default_matmul_precision("highest"):
        ours = winograd.convolution(
            jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), padding
        )
    assert np.linalg.norm(ours - exact) < 1e-6 * np.linalg.norm(exact)
