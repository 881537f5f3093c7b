"""Augmentation: random changes of training images, drawn anew for every batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

Augmentation = Callable[[Array, Array], Array]  # (key, images) -> images

PADDING = 4  # pixels on each side


def crop_flip(key: Array, images: Array) -> Array:
    """Random crop of the zero-padded image, and a horizontal flip with probability 1/2.

    The usual augmentation of CIFAR (arXiv 1409.5185, section 4): images are padded by 4 pixels on
    each side, and a crop of the original size is taken.

    Args:
      key: scalar PRNG key.
      images: `[B, H, W, C]` before normalisation, as the padding of uint8 is black.

    Returns:
      Images of the same shape and dtype.
    """
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (len(images), 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(len(images),))
    edges = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))

    def crop_flip_image(padded: Array, offset: Array, flip: Array) -> Array:
        crop = lax.dynamic_slice(padded, (offset[0], offset[1], 0), images.shape[1:])
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(crop_flip_image)(jnp.pad(images, edges), offsets, flips)


AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "crop_flip": crop_flip}
