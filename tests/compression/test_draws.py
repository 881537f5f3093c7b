"""Draws of 16 bits: uniform, independent, different for every key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.compression.draws import LEVELS, uint16

SIZE = 2**20


def test_levels_are_equally_likely() -> None:
    drawn = np.asarray(uint16(jax.random.key(0), (SIZE,)))
    assert drawn.dtype == np.uint16
    for counts in (np.bincount(drawn >> 8), np.bincount(drawn & 255)):
        # Chi-square of 255 degrees of freedom: mean 255, standard deviation sqrt(510).
        expected = SIZE / 256
        assert abs(np.sum((counts - expected) ** 2 / expected) - 255) < 5 * np.sqrt(510)
    assert drawn.max() == LEVELS - 1 and drawn.min() == 0


@pytest.mark.parametrize("apart", [1, 2, 3, SIZE // 2])
def test_neighbours_are_independent(apart: int) -> None:
    drawn = np.asarray(uint16(jax.random.key(1), (SIZE,)), np.float64) / LEVELS - 0.5
    product = drawn * np.roll(drawn, apart)
    # The product of two has the standard deviation 1 / 12.
    assert abs(product.mean()) < 5 / 12 / np.sqrt(SIZE)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_any_shape_and_any_generator(shape: tuple[int, ...], kind: str) -> None:
    drawn = uint16(jax.random.key(0, impl=kind), shape)
    assert drawn.shape == shape and drawn.dtype == jnp.uint16


def test_keys_mapped_over_clients_draw_what_each_draws_alone() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: uint16(key, (9,)))(keys)
    assert len(np.unique(np.asarray(together), axis=0)) == 3
    for alone, key in zip(together, jax.random.split(jax.random.key(0), 3), strict=True):
        np.testing.assert_array_equal(uint16(key, (9,)), alone)


def test_a_key_used_twice_is_seen() -> None:
    def twice(key: jax.Array) -> jax.Array:
        return uint16(key, (4,)) + uint16(key, (4,))

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(twice)(jax.random.key(0))


def test_the_numbers_are_the_same_in_every_release_of_jax() -> None:
    assert uint16(jax.random.key(0), (5,)).tolist() == [40176, 43325, 64417, 25304, 50460]
    traced = str(jax.make_jaxpr(lambda key: uint16(key, (8,)))(jax.random.key(0)))
    assert "threefry2x32" in traced and "random_bits" not in traced
