"""Checksums of arrays, the same on the host and on devices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums_of(arrays: Mapping[str, jax.Array], more: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The checksums of arrays on devices and of more on the host, by name."""
    found = jax.device_get(_on_devices(dict(arrays)))
    found |= {name: checksum(np, array) for name, array in more.items()}
    return {name: int(value) for name, value in found.items()}


def verify(arrays: Mapping[str, np.ndarray], checksums: Mapping[str, int]) -> None:
    """Compares arrays of the host with their checksums.

    Raises:
      ValueError: names the first that differs.
    """
    for name, wanted in checksums.items():
        if checksum(np, arrays[name]) != wanted:
            raise ValueError(f"checksum of {name} differs")


@jax.jit
def _on_devices(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: checksum(jnp, array) for name, array in arrays.items()}


def checksum(xp: Any, array: Any) -> Any:
    """Changes with every bit: the words, each times an odd number of its own, summed up.

    The same where devices have parts of the array, which are not brought together for it.
    """
    array = array.reshape(array.shape or (1,))
    if array.dtype.itemsize == 4:
        bits = array.view(xp.uint32)
    elif array.dtype.itemsize == 2:
        bits = array.view(xp.uint16).astype(xp.uint32)
    else:
        bits = array.astype(xp.uint32)
    position = xp.arange(array.size, dtype=xp.uint32).reshape(array.shape)
    mixed = (bits ^ (bits >> 15)) * (position * xp.uint32(2) + xp.uint32(0x9E3779B1))
    return xp.sum(mixed, dtype=xp.uint32)
