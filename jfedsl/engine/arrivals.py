"""Participants that go on while others wait: where each one is, and what a server's step changes.

Rows of the participants whose messages the server takes are taken out of the state, change, and are
put back. The run has one device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from jfedsl.engine.message_sizes import MessageBits, message_bits
from jfedsl.engine.period import deliver
from jfedsl.engine.state import RunSpec, State, copies
from jfedsl.errors import flag_error
from jfedsl.sharding.slots import assign_slots, where_rows
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
from jfedsl.wireless.radio import Conditions


class Progress(struct.PyTreeNode):
    """How far each participant is.

    Attributes:
      bits: expected sizes of its messages.
      underway: the participants on the clock.
      down_rate: float32 `[K]`, bit/s, at which it receives in this round.
      up_rate: float32 `[K]`, bit/s, at which it sends.
      answered: bool `[K]`, whether it sets out on a new trip.
      exchanges: int32 `[K]`, since it received the model.
      lacks_model: bool `[K]`, whether the model has yet to be sent to it.
      received: the model that it received last, `[K, ...]`.
      received_at: int32 `[K]`, averages of the run before that.
      averages: int32 scalar, of the run so far.
    """

    bits: MessageBits
    underway: Underway
    down_rate: Array
    up_rate: Array
    answered: Array
    exchanges: Array
    lacks_model: Array
    received: Any
    received_at: Array
    averages: Array


class Taken(NamedTuple):
    """The messages that a step of the server takes.

    Attributes:
      positions: of the participants, ascending, int32 `[n]`.
      exchanging: bool `[n]`, which messages are activations; the others are client parts.
      waited: seconds until the last of them has arrived, scalar.
    """

    positions: Array
    exchanging: Array
    waited: Array


def first_progress(spec: RunSpec, key: Array, image: tuple[int, ...], state: State) -> Progress:
    """All participants about to receive the first model.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      image: shape of an input.
      state: before the first round.

    Raises:
      UserError: there is no network that could say which messages arrive first.
    """
    if spec.radio is None:
        raise flag_error("network", "none", "a network with a server that does not wait for all")
    count, zero = spec.participants, jnp.zeros(spec.participants, jnp.int32)
    return Progress(
        bits=message_bits(spec, key, image, state),
        underway=at_start(count),
        down_rate=jnp.ones(count),
        up_rate=jnp.ones(count),
        answered=jnp.ones(count, bool),
        exchanges=zero,
        lacks_model=jnp.ones(count, bool),
        received=copies(state.aggregator.params, count),
        received_at=zero,
        averages=jnp.int32(0),
    )


def send_models(spec: RunSpec, key: Array, state: State) -> tuple[State, Array]:
    """Sends the aggregated model and masks to the participants that lack them.

    Returns:
      The state, and the bytes sent to each participant, int32 `[K]`.
    """

    def send(state: State) -> tuple[State, Array]:
        progress: Progress = state.algorithm_state
        lack = progress.lacks_model
        state, down = deliver(spec, key, state.replace(has_current_model=~lack), lack)
        progress = progress.replace(
            received=where_rows(lack, state.clients.params, progress.received),
            received_at=jnp.where(lack, progress.averages, progress.received_at),
        )
        ranked = state.aggregator.pruning.replace(score_state=None)
        aggregator = state.aggregator.replace(trained=ranked)
        return state.replace(algorithm_state=progress, aggregator=aggregator), down

    nothing = jnp.zeros(spec.participants, jnp.int32)
    lacking = jnp.any(state.algorithm_state.lacks_model)
    return lax.cond(lacking, send, lambda state: (state, nothing), state)


def with_rates(conditions: Conditions, state: State) -> State:
    """The participants at the start of a round, when rates change for whoever is on its way."""
    progress: Progress = state.algorithm_state
    down, up = conditions.down_rate, conditions.up_rate
    underway = at_new_rates(progress.underway, progress.down_rate / down, progress.up_rate / up)
    progress = progress.replace(underway=underway, down_rate=down, up_rate=up)
    return state.replace(algorithm_state=progress)


def with_trips(spec: RunSpec, conditions: Conditions, state: State) -> State:
    """The participants that the last step answered, on new trips.

    Who has the model anew computes and sends an activation. Who has a gradient steps, and goes on
    with the next activation, or sends its part at the end of its period.

    Args:
      spec: functions and static numbers of the run.
      conditions: of the round in which they set out.
      state: before a step of the server, models sent.
    """
    progress: Progress = state.algorithm_state
    anew, bits = progress.lacks_model, progress.bits
    returns = progress.exchanges == exchanges_of_period(spec)
    trip = Trip(
        receiving=jnp.where(anew, bits.model_down, bits.down) / conditions.down_rate,
        computing=jnp.where(anew, 0.0, conditions.backward)
        + jnp.where(returns, 0.0, conditions.forward),
        sending=jnp.where(returns, bits.model_up, bits.up) / conditions.up_rate,
    )
    underway = set_out(progress.underway, progress.answered, trip)
    nobody = jnp.zeros_like(anew)
    progress = progress.replace(underway=underway, answered=nobody, lacks_model=nobody)
    return state.replace(algorithm_state=progress)


def exchanges_of_period(spec: RunSpec) -> int:
    """Exchanges of a participant from one model to the next."""
    return spec.local_steps * spec.aggregate_every


def of_step(spec: RunSpec, count: int) -> RunSpec:
    """The run of the `count` participants whose messages the server takes in one step."""
    return spec._replace(participants=count, group_sizes=(count,), slots=assign_slots((count,)))


def take(spec: RunSpec, state: State, count: int, most_missed: int) -> tuple[Taken, State]:
    """The next messages for the server, and the state of their participants alone.

    Args:
      spec: functions and static numbers of the run.
      state: with all participants under way.
      count: messages of a step.
      most_missed: steps that a participant may miss in a row; 0 for any number.
    """
    progress: Progress = state.algorithm_state
    positions, waited = next_taken(progress.underway, count, most_missed)
    exchanging = progress.exchanges[positions] < exchanges_of_period(spec)
    some = state.replace(
        clients=rows_at(positions, state.clients),
        participants=state.participants[positions],
        has_current_model=state.has_current_model[positions],
        algorithm_state=None,
    )
    return Taken(positions, exchanging, waited), some


def rows_at(positions: Array, rows: Any) -> Any:
    """The rows `[n, ...]` at positions of arrays `[K, ...]`."""
    return jax.tree.map(lambda x: x[positions], rows)


def spread(taken: Taken, rows: Any, count: int) -> Any:
    """Arrays `[n, ...]` of the participants of a step as `[K, ...]` of all, 0 of the others."""

    def one(x: Array) -> Array:
        return jnp.zeros((count, *x.shape[1:]), x.dtype).at[taken.positions].set(x)

    return jax.tree.map(one, rows)


def put_back(spec: RunSpec, state: State, taken: Taken, some: State) -> tuple[State, ServerStep]:
    """The state after a step, and the step on the clock.

    Args:
      spec: functions and static numbers of the run.
      state: before the step.
      taken: whose messages it took.
      some: their state after it.
    """
    assert spec.radio is not None
    progress: Progress = state.algorithm_state
    at, exchanging, count = taken.positions, taken.exchanging, spec.participants
    served = jnp.sum(jnp.where(exchanging, spec.radio.flop_counts.server, 0.0))
    chosen, averaged = spread(taken, (jnp.ones_like(exchanging), ~exchanging), count)
    step = ServerStep(
        waited=taken.waited,
        serving=served / spec.radio.network.server_flops,
        taken=chosen,
        underway=progress.underway,
        averaged=averaged,
    )
    done = jnp.where(exchanging, progress.exchanges[at] + 1, 0)
    progress = progress.replace(
        underway=after_step(step),
        answered=chosen,
        exchanges=progress.exchanges.at[at].set(done),
        lacks_model=averaged,
        averages=progress.averages + jnp.any(averaged).astype(jnp.int32),
    )
    clients = jax.tree.map(lambda x, row: x.at[at].set(row), state.clients, some.clients)
    after = state.replace(
        server=some.server, aggregator=some.aggregator, clients=clients, algorithm_state=progress
    )
    return after, step
