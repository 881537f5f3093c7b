"""Random changes of training images, drawn anew each time an example is seen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

Augmentation = Callable[[Array, Array], Array]

PADDING = 4  # pixels on each side


def crop_flip(key: Array, images: Array) -> Array:
    """Shifts by up to 4 pixels each way, zeros coming in, and mirrors with probability 1/2.

    The usual augmentation of CIFAR (arXiv 1409.5185, section 4): a crop of the original size out of
    the zero-padded image, and a horizontal flip with probability 1/2.

    Args:
      key: scalar PRNG key.
      images: `[B, H, W, C]` before normalisation, so that zero is black in uint8.

    Returns:
      Images of the same shape and dtype.
    """
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (len(images), 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(len(images),))
    edges = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))

    def one(padded: Array, offset: Array, flip: Array) -> Array:
        crop = lax.dynamic_slice(padded, (offset[0], offset[1], 0), images.shape[1:])
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(jnp.pad(images, edges), offsets, flips)


AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "crop_flip": crop_flip}
