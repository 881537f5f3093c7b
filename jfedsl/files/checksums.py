"""Checksums of arrays, with equal results on the host and on devices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums_of(
    arrays: Mapping[str, jax.Array], host_arrays: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """The checksums of arrays on devices and of arrays on the host, by name."""
    checksums = jax.device_get(_on_devices(dict(arrays)))
    checksums |= {name: checksum(np, array) for name, array in host_arrays.items()}
    return {name: int(value) for name, value in checksums.items()}


def verify(arrays: Mapping[str, np.ndarray], checksums: Mapping[str, int]) -> None:
    """Compares arrays on the host with their checksums.

    Raises:
      ValueError: names the first array whose checksum differs.
    """
    for name, expected in checksums.items():
        if checksum(np, arrays[name]) != expected:
            raise ValueError(f"checksum of {name} differs")


@jax.jit
def _on_devices(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: checksum(jnp, array) for name, array in arrays.items()}


def checksum(xp: Any, array: Any) -> Any:
    """The checksum of an array, uint32: a sum of its words, each times another odd number.

    It changes with every bit, and with the order of entries. As a sum, it is computed on sharded
    arrays without gathering them.

    Args:
      xp: `numpy` or `jax.numpy`.
      array: with entries of up to 32 bits.
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
