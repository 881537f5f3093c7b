"""Fading that lasts: a Gauss-Markov process, its value a function of the round's number alone.

The gain g_r of round r is stationary: g_(r+1) = a g_r + sqrt(1 - a^2) w_r with w_r ~ CN(0, 1). The
gains of rounds at a distance n have the correlation a^n, their powers a^(2n). If every round went
on from the one before, its fading would depend on what has been computed; a sum over past
innovations is long (917 for a = 0.99, where the last has a weight of 1e-4).

So a stretch of rounds is halved. As the process is Markov, the gain in the middle of a stretch
depends on those at its two ends and on nothing else. So does the gain in the middle of either half,
and so on down to the round. This is exact, and every halving takes one innovation. A stretch is so
long that its ends are independent to float32 rounding: 2048 rounds and 13 innovations for a = 0.99.

Sources: Tan and Beaulieu, On first-order Markov modeling for the Rayleigh fading channel, IEEE
Transactions on Communications 48 (2000), for the process; the conditional mean and variance of
Gaussians for the middle.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

MOST = 0.999999  # the largest memory: stretches have 2^24 rounds
_INDEPENDENT = 2.0**-24  # a correlation below float32 rounding


class Innovations(NamedTuple):
    """The innovations that make the gain of a round.

    Attributes:
      rounds: rounds that they belong to, all different, uint32 `[n]`.
      weights: of each in the gain, float32 `[n]`; their squares add up to 1.
    """

    rounds: Array
    weights: Array


def innovations(memory: float, round_: Array) -> Innovations:
    """Which rounds' innovations make the gain of a round, and with which weights.

    Args:
      memory: correlation a of the gains of consecutive rounds, static, above 0, at most `MOST`.
      round_: int32 scalar, 0 or more.
    """
    halves = _halves(memory)
    length = np.uint32(2 * halves[0] if halves.size else 1)
    now = lax.convert_element_type(round_, jnp.uint32)  # a stretch may end after the last int32
    first = now - now % length
    position = now % (2 * halves)
    middles = now - position + halves
    rounds = jnp.concatenate([jnp.stack([first, first + length]), middles])
    units = jnp.eye(rounds.size, dtype=jnp.float32)

    def halve(
        ends: tuple[Array, Array], step: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], None]:
        (left, right), (pull, spread, later, unit) = ends, step
        middle = pull * (left + right) + spread * unit
        return (jnp.where(later, middle, left), jnp.where(later, right, middle)), None

    steps = (*_middle(memory, halves), position >= halves, units[2:])
    (weights, _), _ = lax.scan(halve, (units[0], units[1]), steps)
    return Innovations(rounds, weights)


def _halves(memory: float) -> np.ndarray:
    """Half the length of each stretch, down to that of two rounds, uint32 `[levels]`."""
    rounds = math.log(_INDEPENDENT) / math.log(memory)
    levels = max(0, math.ceil(math.log2(rounds)))
    return 2 ** np.arange(levels, dtype=np.uint32)[::-1]


def _middle(memory: float, halves: np.ndarray) -> tuple[Array, Array]:
    """Weight of each end in the middle's mean, and the standard deviation around it, `[levels]`.

    With correlation b to either end: b / (1 + b^2), and sqrt((1 - b^2) / (1 + b^2)).
    """
    exponent = halves * math.log(memory)  # float64; 1 - b^2 may be tiny
    correlation = np.exp(exponent)
    both = 1 + correlation**2
    pull, spread = correlation / both, np.sqrt(-np.expm1(2 * exponent) / both)
    return jnp.asarray(pull, jnp.float32), jnp.asarray(spread, jnp.float32)
