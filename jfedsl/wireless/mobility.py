"""Devices that move: straight on at one speed, and mirrored where the cell ends.

A device starts where it was placed, in a direction of its own. The edge of the cell and the disc
around the base station reflect it as mirrors. A reflection keeps the angle, so that all straight
pieces of the way pass the base station at the same least distance. What is left of a piece up to
the point of that distance falls and rises between two ends. So the distance after any way is a
closed form. Devices that start uniform over the ring and in any direction stay uniform.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.wireless.channel import NEAREST

_SHORTEST = 1e-3  # m, of a piece of way along the edge, so that nothing is divided by 0


class Motion(NamedTuple):
    """Where devices start and in which direction.

    Attributes:
      distance: from the base station in the first round, float32 `[...]`, m.
      heading: angle from the direction outwards to that of the motion, float32 `[...]`, radians.
    """

    distance: Array
    heading: Array


def headings(key: Array, clients: int) -> Array:
    """Directions, uniform in [-pi, pi), float32 `[clients]`, radians."""
    return jax.random.uniform(key, (clients,), jnp.float32, -math.pi, math.pi)


def distances_after(motion: Motion, way: Array, radius: float | np.ndarray | Array) -> Array:
    """Distances from the base station after a way.

    Float32 rounds the way, and with it the distance: to 3 cm after 500 km.

    Args:
      motion: of the devices, `[...]`.
      way: length of the way since the first round, float32, m, 0 or more.
      radius: of the cell, or of each device's `[...]`, m, above `NEAREST`.

    Returns:
      float32 `[...]`, m, from `NEAREST` to `radius`.
    """
    passing = motion.distance * jnp.abs(jnp.sin(motion.heading))  # least distance of the lines
    out = motion.distance * jnp.cos(motion.heading)  # from there to the start, outwards
    inner, outer = (_half_chord(r, passing) for r in (NEAREST, radius))
    length = jnp.maximum(outer - inner, _SHORTEST)
    # From the inner end to the outer one and back, over and over.
    start = jnp.where(out > 0, 1.0, -1.0) * (jnp.abs(out) - inner)
    along = inner + length - jnp.abs((start + way) % (2 * length) - length)
    return jnp.clip(jnp.sqrt(passing**2 + along**2), NEAREST, radius)


def _half_chord(radius: float | np.ndarray | Array, passing: Array) -> Array:
    """Half of what a circle cuts off lines that pass its centre at a distance; 0 outside of it."""
    return jnp.sqrt(jnp.maximum((radius - passing) * (radius + passing), 0.0))
