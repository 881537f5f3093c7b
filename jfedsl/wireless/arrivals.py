"""A server that steps when some messages have arrived: which ones it takes, and when.

Between two answers of the server a client makes one trip: it receives, computes, and sends. Its
message then waits until the server takes it. A step of the server takes a fixed number of messages
and answers their clients when it has computed; the others go on.

Times are in seconds and count from the end of the server's last step, so that they keep their
precision in float32 however long a run is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax


class Trip(NamedTuple):
    """What clients do between two answers, in this order.

    Attributes:
      receiving: float32 `[K]`, s.
      computing: float32 `[K]`, s.
      sending: float32 `[K]`, s.
    """

    receiving: Array
    computing: Array
    sending: Array

    @property
    def seconds(self) -> Array:
        """How long the trips take, float32 `[K]`, s."""
        return self.receiving + self.computing + self.sending


class Underway(struct.PyTreeNode):
    """The clients between two steps of the server.

    Attributes:
      started: float32 `[K]`, when each trip began, s; 0 or less.
      trip: of each client.
      missed: int32 `[K]`, steps that the server has taken since it last answered each client.
    """

    started: Array
    trip: Trip
    missed: Array

    @property
    def arrival(self) -> Array:
        """When each message arrives, float32 `[K]`, s; below 0 for one that waits already."""
        return self.started + self.trip.seconds


class ServerStep(struct.PyTreeNode):
    """One step of the server on the clock; stacked on a leading axis for many.

    Attributes:
      waited: seconds from the end of the last step to the last message that this one takes, scalar.
      serving: seconds that it computes, scalar.
      taken: bool `[K]`, whose messages it takes.
      underway: the clients before it.
      averaged: bool `[K]`, of those taken, whose message was a model to average.
    """

    waited: Array
    serving: Array
    taken: Array
    underway: Underway
    averaged: Array


def at_start(clients: int) -> Underway:
    """All clients at the start of a run, before their first trips begin."""
    zero = jnp.zeros(clients)
    return Underway(zero, Trip(zero, zero, zero), jnp.zeros(clients, jnp.int32))


def set_out(underway: Underway, which: Array, trip: Trip) -> Underway:
    """The clients after some of them, bool `[K]`, have set out on new trips."""
    trips = jax.tree.map(lambda new, old: jnp.where(which, new, old), trip, underway.trip)
    return underway.replace(started=jnp.where(which, 0.0, underway.started), trip=trips)


def at_new_rates(underway: Underway, down: Array, up: Array) -> Underway:
    """The clients when rates change: what they have yet to receive or send takes another time.

    Args:
      underway: the clients, at time 0.
      down: old rate over new rate, `[K]`, of what each one receives.
      up: the same of what it sends.
    """
    begins, parts = underway.started, []
    for part, ratio in zip(underway.trip, (down, jnp.ones_like(up), up), strict=True):
        ends = begins + part
        left = jnp.clip(ends, 0.0, part)
        parts.append(part - left + left * ratio)
        begins = ends
    return underway.replace(trip=Trip(*parts))


def next_taken(underway: Underway, quorum: int, most_missed: int) -> tuple[Array, Array]:
    """The messages of the server's next step.

    It takes those that arrive first, but before them those of clients that have missed
    `most_missed` steps in a row: for these it waits. Equal arrivals go by position.

    Args:
      underway: the clients.
      quorum: how many messages the server takes.
      most_missed: steps that a client may miss in a row; 0 for any number. Of more than `quorum`
        clients that have missed so many, which happens only where all began at once, the server
        takes the first to arrive.

    Returns:
      Positions of the clients, ascending, int32 `[quorum]`; and seconds until the last of these
      messages has arrived, 0 if all have.
    """
    arrival = underway.arrival
    order = arrival
    if most_missed:
        late = underway.missed >= most_missed
        many = jnp.sum(late) > quorum
        order = jnp.where(late, jnp.where(many, arrival, -jnp.inf), arrival)
        order = jnp.where(many & ~late, jnp.inf, order)
    # On CPUs it takes a twentieth of the time of a sort; equal values go by position in both.
    taken = jnp.sort(lax.top_k(-order, quorum)[1]).astype(jnp.int32)
    return taken, jnp.maximum(jnp.max(arrival[taken]), 0.0)


def after_step(step: ServerStep) -> Underway:
    """The clients at the end of a step, where times begin anew."""
    underway, taken = step.underway, step.taken
    return underway.replace(
        started=jnp.where(taken, 0.0, underway.started - (step.waited + step.serving)),
        missed=jnp.where(taken, 0, underway.missed + 1),
    )
