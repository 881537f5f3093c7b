"""Seconds and joules of the steps of a server that does not wait for all; see `arrivals`."""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.wireless.arrivals import ServerStep, Trip
from jfedsl.wireless.cost import Cost, joules
from jfedsl.wireless.radio import Radio


def cost_of_steps(radio: Radio, ids: Array, steps: ServerStep) -> Cost:
    """What the steps of a round cost, from the end of the last one before it to that of its last.

    Trips that reach beyond the round count as far as they are in it. A client waits while it makes
    no trip and the server does not compute. While the server computes, clients that it does not
    answer may be on a trip: the parts of such a client then add up to more than the round.

    Args:
      radio: of the run.
      ids: of the clients, int32 `[K]`.
      steps: of the round, `[S, ...]`.
    """
    computing, idle, each = jax.vmap(_of_step)(steps)
    receives, computes, sends = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
    seconds, serving = jnp.sum(steps.waited + steps.serving), jnp.sum(steps.serving)
    compute_joules, transmit_joules = joules(radio, ids, computes, sends)
    critical = jnp.sum(computing)
    return Cost(
        seconds=seconds,
        compute_seconds=critical,
        communication_seconds=seconds - critical,
        server=serving,
        compute=computes,
        uplink=sends,
        downlink=receives,
        waiting=jnp.sum(idle, axis=0),
        compute_joules=compute_joules,
        transmit_joules=transmit_joules,
        lost=jnp.zeros(()),
        stages=steps,
    )


def _of_step(step: ServerStep) -> tuple[Array, Array, Trip]:
    """Seconds that the client waited for and the server compute; of waiting; of each trip's parts.

    Of a step that is left out, in which nobody is taken, all are 0.
    """
    underway, trip = step.underway, step.underway.trip
    last = jnp.argmax(jnp.where(step.taken, underway.arrival, -jnp.inf))

    def within(end: Array) -> Trip:
        """Seconds of each part of the trips between 0 and `end`."""
        begins, parts = underway.started, []
        for part in trip:
            ends = begins + part
            parts.append(jnp.maximum(jnp.minimum(ends, end) - jnp.maximum(begins, 0.0), 0.0))
            begins = ends
        return Trip(*parts)

    before = within(step.waited)
    idle = jnp.maximum(step.waited - before.seconds, 0.0)  # below 0 by rounding
    return before.computing[last] + step.serving, idle, within(step.waited + step.serving)
