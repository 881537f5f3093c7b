"""The schedule of a server that does not wait for all: who is answered when, whatever is learnt.

It follows from the sizes of messages, the conditions of each round, and FLOPs. A run keeps it
beside what it trains; the planner runs it alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax
from jax.typing import ArrayLike

from jfedsl.wireless.arrivals import (
    ServerStep,
    Trip,
    Underway,
    after_step,
    at_new_rates,
    at_start,
    next_taken,
    set_out,
)
from jfedsl.wireless.radio import Conditions, Radio


class MessageBits(NamedTuple):
    """Expected sizes of the messages of each participant, bits, float32 `[K]`.

    Attributes:
      up: activation and labels of an exchange.
      down: gradient at the cut of an exchange.
      model_up: client part at the end of a period.
      model_down: client part and masks at its start.
    """

    up: Array
    down: Array
    model_up: Array
    model_down: Array


class Schedule(struct.PyTreeNode):
    """How far each client is on the clock.

    Attributes:
      underway: the clients between two steps of the server.
      down_rate: float32 `[K]`, bit/s, at which each one receives in this round.
      up_rate: float32 `[K]`, bit/s, at which it sends.
      answered: bool `[K]`, whether it sets out on a new trip.
      exchanges: int32 `[K]`, since it received the model.
      lacks_model: bool `[K]`, whether the model has yet to be sent to it.
    """

    underway: Underway
    down_rate: Array
    up_rate: Array
    answered: Array
    exchanges: Array
    lacks_model: Array


class Rules(NamedTuple):
    """How a server goes on.

    Attributes:
      quorum: messages that it takes in a step.
      most_missed: steps that a client may miss in a row; 0 for any number.
      local_steps: steps in a round.
      period: rounds in an aggregation period, at whose end is one more step.
    """

    quorum: int
    most_missed: int
    local_steps: int
    period: ArrayLike

    @property
    def exchanges(self) -> Any:
        """Exchanges of a client from one model to the next."""
        return self.local_steps * self.period


class Taken(NamedTuple):
    """The messages that a step of the server takes.

    Attributes:
      positions: of the clients, ascending, int32 `[n]`.
      exchanging: bool `[n]`, which messages are activations; the others are client parts.
      waited: seconds until the last of them has arrived, scalar.
    """

    positions: Array
    exchanging: Array
    waited: Array


def first_schedule(clients: int) -> Schedule:
    """All clients about to receive the first model."""
    return Schedule(
        underway=at_start(clients),
        down_rate=jnp.ones(clients),
        up_rate=jnp.ones(clients),
        answered=jnp.ones(clients, bool),
        exchanges=jnp.zeros(clients, jnp.int32),
        lacks_model=jnp.ones(clients, bool),
    )


def with_rates(conditions: Conditions, schedule: Schedule) -> Schedule:
    """The clients at the start of a round, when rates change for whoever is on its way."""
    down, up = conditions.down_rate, conditions.up_rate
    underway = at_new_rates(schedule.underway, schedule.down_rate / down, schedule.up_rate / up)
    return schedule.replace(underway=underway, down_rate=down, up_rate=up)


def with_trips(
    rules: Rules, bits: MessageBits, conditions: Conditions, schedule: Schedule
) -> Schedule:
    """The clients that the last step answered, on new trips.

    Who has the model anew computes and sends an activation. Who has a gradient steps, and goes on
    with the next activation, or sends its part at the end of its period.

    Args:
      rules: of the server.
      bits: sizes of the messages of each client, `[K]`.
      conditions: of the round in which they set out.
      schedule: before a step of the server.
    """
    anew = schedule.lacks_model
    returns = schedule.exchanges == rules.exchanges
    trip = Trip(
        receiving=jnp.where(anew, bits.model_down, bits.down) / conditions.down_rate,
        computing=jnp.where(anew, 0.0, conditions.backward)
        + jnp.where(returns, 0.0, conditions.forward),
        sending=jnp.where(returns, bits.model_up, bits.up) / conditions.up_rate,
    )
    underway = set_out(schedule.underway, schedule.answered, trip)
    nobody = jnp.zeros_like(anew)
    return schedule.replace(underway=underway, answered=nobody, lacks_model=nobody)


def take(rules: Rules, schedule: Schedule) -> Taken:
    """The messages of the server's next step, with all clients under way."""
    positions, waited = next_taken(schedule.underway, rules.quorum, rules.most_missed)
    return Taken(positions, schedule.exchanges[positions] < rules.exchanges, waited)


def spread(taken: Taken, rows: Any, count: int) -> Any:
    """Arrays `[n, ...]` of the clients of a step as `[K, ...]` of all, 0 of the others."""

    def one(x: Array) -> Array:
        return jnp.zeros((count, *x.shape[1:]), x.dtype).at[taken.positions].set(x)

    return jax.tree.map(one, rows)


def after_taking(radio: Radio, taken: Taken, schedule: Schedule) -> tuple[Schedule, ServerStep]:
    """The schedule after a step, and the step on the clock.

    Args:
      radio: of the run.
      taken: whose messages it took.
      schedule: before the step.
    """
    at, exchanging = taken.positions, taken.exchanging
    served = jnp.sum(jnp.where(exchanging, radio.flop_counts.server, 0.0))
    kinds = jnp.ones_like(exchanging), ~exchanging
    chosen, averaged = spread(taken, kinds, schedule.answered.size)
    step = ServerStep(
        waited=taken.waited,
        serving=served / radio.network.server_flops,
        taken=chosen,
        underway=schedule.underway,
        averaged=averaged,
    )
    done = jnp.where(exchanging, schedule.exchanges[at] + 1, 0)
    after = schedule.replace(
        underway=after_step(step),
        answered=chosen,
        exchanges=schedule.exchanges.at[at].set(done),
        lacks_model=averaged,
    )
    return after, step


def steps_of_round(
    rules: Rules, radio: Radio, bits: MessageBits, conditions: Conditions, number: Array,
    schedule: Schedule,
) -> tuple[Schedule, ServerStep]:  # fmt: skip
    """The steps of the server in a round.

    Args:
      rules: of the server.
      radio: of the run, for the FLOPs of a step and the server's speed.
      bits: sizes of the messages of each client, `[K]`.
      conditions: of the round, of the clients `[K]`.
      number: of the round, int32 scalar.
      schedule: before the round.

    Returns:
      The schedule after the round, and its local_steps + 1 steps, `[S, ...]`: the last one takes
      nobody's message and no time, unless it ends a period.
    """

    def step(schedule: Schedule, i: Array) -> tuple[Schedule, ServerStep]:
        del i
        schedule = with_trips(rules, bits, conditions, schedule)
        return after_taking(radio, take(rules, schedule), schedule)

    return over_steps(rules, number, step, with_rates(conditions, schedule))


def over_steps(
    rules: Rules, number: Array, step: Callable[[Any, Array], tuple[Any, Any]], carry: Any
) -> tuple[Any, Any]:
    """Takes the steps of a round, and one more if that ends a period.

    Args:
      rules: of the server.
      number: of the round, int32 scalar.
      step: `(carry, number of the step in its round) -> (carry, record)`.
      carry: before the round.

    Returns:
      The carry after the round, and its local_steps + 1 records; the last one is 0 where left out.
    """
    ends_period = (number + 1) % rules.period == 0
    shapes = jax.eval_shape(step, carry, number)[1]

    def left_out(carry: Any, i: Array) -> tuple[Any, Any]:
        del i
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def maybe(carry: Any, i: Array) -> tuple[Any, Any]:
        return lax.cond((i < rules.local_steps) | ends_period, step, left_out, carry, i)

    return lax.scan(maybe, carry, jnp.arange(rules.local_steps + 1, dtype=jnp.int32))
