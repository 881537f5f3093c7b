"""Participants that go on while others wait: where each one is, and what a server's step changes.

Rows of the participants whose messages the server takes are taken out of the state, change, and are
put back. The run has one device.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from jfedsl.engine.message_sizes import message_bits
from jfedsl.engine.period import deliver
from jfedsl.engine.state import RunSpec, State, copies
from jfedsl.errors import flag_error
from jfedsl.sharding.slots import where_rows
from jfedsl.wireless import schedule
from jfedsl.wireless.arrivals import ServerStep
from jfedsl.wireless.radio import Conditions
from jfedsl.wireless.schedule import MessageBits, Rules, Schedule, Taken, first_schedule


class Progress(struct.PyTreeNode):
    """How far each participant is.

    Attributes:
      bits: expected sizes of its messages.
      schedule: the participants on the clock.
      received: the model that each one received last, `[K, ...]`.
      received_at: int32 `[K]`, averages of the run before that.
      averages: int32 scalar, of the run so far.
    """

    bits: MessageBits
    schedule: Schedule
    received: Any
    received_at: Array
    averages: Array


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
    count = spec.participants
    return Progress(
        bits=message_bits(spec, key, image, state),
        schedule=first_schedule(count),
        received=copies(state.aggregator.params, count),
        received_at=jnp.zeros(count, jnp.int32),
        averages=jnp.int32(0),
    )


def send_models(spec: RunSpec, key: Array, state: State) -> tuple[State, Array]:
    """Sends the aggregated model and masks to the participants that lack them.

    Returns:
      The state, and the bytes sent to each participant, int32 `[K]`.
    """

    def send(state: State) -> tuple[State, Array]:
        progress: Progress = state.algorithm_state
        lack = progress.schedule.lacks_model
        state, down = deliver(spec, key, state.replace(has_current_model=~lack), lack)
        progress = progress.replace(
            received=where_rows(lack, state.clients.params, progress.received),
            received_at=jnp.where(lack, progress.averages, progress.received_at),
        )
        ranked = state.aggregator.pruning.replace(score_state=None)
        aggregator = state.aggregator.replace(trained=ranked)
        return state.replace(algorithm_state=progress, aggregator=aggregator), down

    nothing = jnp.zeros(spec.participants, jnp.int32)
    lacking = jnp.any(state.algorithm_state.schedule.lacks_model)
    return lax.cond(lacking, send, lambda state: (state, nothing), state)


def with_rates(conditions: Conditions, state: State) -> State:
    """The participants at the start of a round, when rates change for whoever is on its way."""
    progress: Progress = state.algorithm_state
    progress = progress.replace(schedule=schedule.with_rates(conditions, progress.schedule))
    return state.replace(algorithm_state=progress)


def with_trips(rules: Rules, conditions: Conditions, state: State) -> State:
    """The participants that the last step answered, on new trips.

    Args:
      rules: of the server.
      conditions: of the round in which they set out.
      state: before a step of the server, models sent.
    """
    progress: Progress = state.algorithm_state
    under_way = schedule.with_trips(rules, progress.bits, conditions, progress.schedule)
    return state.replace(algorithm_state=progress.replace(schedule=under_way))


def take(rules: Rules, state: State) -> tuple[Taken, State]:
    """The next messages for the server, and the state of their participants alone.

    Args:
      rules: of the server.
      state: with all participants under way.
    """
    taken = schedule.take(rules, state.algorithm_state.schedule)
    some = state.replace(
        clients=rows_at(taken.positions, state.clients),
        participants=state.participants[taken.positions],
        has_current_model=state.has_current_model[taken.positions],
        algorithm_state=None,
    )
    return taken, some


def rows_at(positions: Array, rows: Any) -> Any:
    """The rows `[n, ...]` at positions of arrays `[K, ...]`."""
    return jax.tree.map(lambda x: x[positions], rows)


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
    after, step = schedule.after_taking(spec.radio, taken, progress.schedule)
    averages = progress.averages + jnp.any(step.averaged).astype(jnp.int32)
    clients = jax.tree.map(
        lambda x, row: x.at[taken.positions].set(row), state.clients, some.clients
    )
    state = state.replace(
        server=some.server, aggregator=some.aggregator, clients=clients,
        algorithm_state=progress.replace(schedule=after, averages=averages),
    )  # fmt: skip
    return state, step
