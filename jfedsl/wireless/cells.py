"""Cells of several base stations: each has the whole band for its own clients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.wireless.allocation import minmax


class Cells(NamedTuple):
    """Which base station each client is at.

    Attributes:
      of_client: number of the cell of each client, int `[C]`.
      radii: of the cells, m, float `[cells]`; None where the network's radius is that of all.
    """

    of_client: np.ndarray
    radii: np.ndarray | None = None

    def radius_of_clients(self) -> np.ndarray | None:
        """The radius of each client's cell, float `[C]`, m; None where `radii` is None."""
        return None if self.radii is None else self.radii[self.of_client]


def equal_in_cells(cell: Array, cells: int) -> Array:
    """The same share for every client of a cell, float32 `[K]`.

    Args:
      cell: of each client, int32 `[K]`.
      cells: how many there are.
    """
    return 1.0 / jnp.zeros(cells, jnp.float32).at[cell].add(1.0)[cell]


def minmax_in_cells(
    cell: Array, cells: int, seconds: Array, bits: Array, strength: Array, bandwidth: float
) -> Array:
    """`allocation.minmax` in each cell by itself, float32 `[K]`; see there for the other arguments.

    Args:
      cell: of each client, int32 `[K]`.
      cells: how many there are.
      seconds: `[K]`.
      bits: `[K]`.
      strength: `[K]`.
      bandwidth: of every cell, Hz.
    """

    def one(number: Array) -> Array:
        members = cell == number
        idle = jnp.where(members, seconds, 0.0), jnp.where(members, bits, 0.0)
        # Where none of its clients sends, they share the band equally.
        shares = minmax(*idle, strength, bandwidth)
        return jnp.where(jnp.any(idle[1] > 0), shares, equal_in_cells(cell, cells))

    of_cells = jax.vmap(one)(jnp.arange(cells))
    return of_cells[cell, jnp.arange(cell.size)]
