"""Stages of a round: steps that all participants compute and send in, and wait for the end of."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Stage(NamedTuple):
    """A step that everyone waits for the end of.

    Attributes:
      seconds: until it ends, scalar.
      computing: seconds `[K]` of it that each one computes.
      sending: seconds `[K]` of it that each one sends or receives.
      critical: seconds that the one waited for computes, scalar.
      done: bool `[K]`, who managed; the others did nothing, or what they sent was in vain.
      receiving: seconds `[K]` of it that each one receives, before it computes and then sends; None
        of a stage in one direction.
    """

    seconds: Array
    computing: Array
    sending: Array
    critical: Array
    done: Array
    receiving: Array | None = None


Stages = tuple[Stage, Stage, Array, Stage, Stage]


def waited_for(
    timeout: float | None,
    deadline: float | None,
    computing: Array,
    sending: Array,
    tried: Array,
    done: Array,
    reachable: Array,
    awaited: Array,
) -> Stage:
    """A stage that participants `[K]` compute and send in, and how long it is waited for them.

    It ends with the slowest of those who manage. It is prolonged to the deadline if anyone
    reachable misses that, and to the time-out, if there is one, but not past the deadline, if
    anyone is out of reach. If nobody manages and none of these is set, it ends with the slowest
    attempt, or at once where that is not awaited.
    """
    attempt, done = computing + sending, tried & done
    slowest = _largest(attempt, done)
    end = slowest
    late, away = tried & ~done & reachable, tried & ~done & ~reachable
    if timeout is not None:
        end = jnp.where(jnp.any(away), jnp.maximum(end, timeout), end)
    end = jnp.where(end > 0, end, _largest(attempt, tried & awaited))
    if deadline is not None:
        end = jnp.where(jnp.any(late), deadline, jnp.minimum(end, deadline))
    computed = jnp.where(tried, jnp.minimum(computing, end), 0.0)
    sent = jnp.where(tried, jnp.minimum(sending, end - computed), 0.0)
    last = jnp.argmax(jnp.where(done, attempt, -1.0))
    critical = jnp.where(jnp.any(done), computed[last], _largest(computed, tried))
    return Stage(end, computed, sent, critical, done)


def _largest(values: Array, among: Array) -> Array:
    return jnp.max(jnp.where(among, values, 0.0))
