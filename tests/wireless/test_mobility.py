"""Ways in the ring against a simulation in the plane that finds every reflection."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_close
from scipy import stats

from jfedsl.wireless.channel import NEAREST, distances
from jfedsl.wireless.mobility import Motion, distances_after, headings

RADIUS = 300.0
after = jax.jit(jax.vmap(distances_after, (None, 0, None)))


def motion(clients: int) -> Motion:
    keys = jax.random.split(jax.random.key(0))
    return Motion(distances(keys[0], clients, RADIUS), headings(keys[1], clients))


def hit(place: np.ndarray, direction: np.ndarray, radius: float) -> float:
    """Way to a circle, straight on; infinite if there is none."""
    along = float(place @ direction)
    root = along**2 - float(place @ place) + radius**2
    if root < 0:
        return math.inf
    ways = (-along - math.sqrt(root), -along + math.sqrt(root))
    return min((way for way in ways if way > 1e-9), default=math.inf)


def simulated(distance: float, heading: float, ways: np.ndarray) -> list[float]:
    """Distances from the centre after ascending ways, in float64."""
    place, done = np.array([distance, 0.0]), 0.0
    direction = np.array([math.cos(heading), math.sin(heading)])
    found: list[float] = []
    for way in ways.tolist():
        while True:
            next_hit = min(hit(place, direction, radius) for radius in (NEAREST, RADIUS))
            if done + next_hit > way:
                break
            place, done = place + next_hit * direction, done + next_hit
            outwards = place / np.linalg.norm(place)
            direction = direction - 2 * (direction @ outwards) * outwards
        found.append(float(np.linalg.norm(place + (way - done) * direction)))
    return found


def test_devices_move_straight_on_and_are_mirrored() -> None:
    some = motion(40)
    ways = np.arange(60) * 30.0
    moved = after(some, jnp.asarray(ways, jnp.float32), RADIUS)
    rows = zip(*(np.asarray(x, np.float64).tolist() for x in some), strict=True)
    exact = np.array([simulated(*row, ways) for row in rows]).T
    np.testing.assert_allclose(moved, exact, atol=0.02)
    assert NEAREST <= moved.min() < 45 and 295 < moved.max() <= RADIUS
    assert_close(moved[0], some.distance, rtol=1e-5)


def test_devices_stay_uniform_over_the_ring() -> None:
    area = RADIUS**2 - NEAREST**2
    for row in np.asarray(after(motion(20_000), jnp.array([500.0, 1e6]), RADIUS), np.float64):
        assert stats.kstest(row, lambda x: (x**2 - NEAREST**2) / area).pvalue > 1e-3
        assert NEAREST <= row.min() and row.max() <= RADIUS


def test_a_way_along_the_edge_or_through_the_middle_divides_by_nothing() -> None:
    ends = Motion(jnp.array([RADIUS, RADIUS, NEAREST]), jnp.array([math.pi / 2, -math.pi, 0.0]))
    moved = np.asarray(after(ends, jnp.array([0.0, 100.0, 2.0**40]), RADIUS))
    assert np.all((moved >= NEAREST) & (moved <= RADIUS))
    assert_close(moved[1], [RADIUS, RADIUS - 100, NEAREST + 100], rtol=1e-3)
