"""One round: a period starts or ends with it where one is due, and exchanges in between."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.exchange import Availability
from jfedsl.engine.exchanges import Exchanges, exchanges
from jfedsl.engine.masks import pruned_shares
from jfedsl.engine.participants import period_start, with_width_config
from jfedsl.engine.period import (
    Draw,
    EndPeriod,
    StartPeriod,
    deliver,
    draw_period,
    end_period,
    open_period,
    start_period,
)
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, RunSpec, State, present_weights, weights
from jfedsl.engine.streams import MODEL_DOWN, MODEL_UP
from jfedsl.wireless.radio import Conditions


def run_round(
    spec: RunSpec,
    data: Data,
    key: Array,
    state: State,
    exchange_all: Exchanges = exchanges,
    draw: Draw = draw_period,
    start: StartPeriod = start_period,
    end: EndPeriod = end_period,
) -> tuple[State, RoundRecord]:
    """One round: local_steps exchanges, with the start or end of a period where one is due.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      state: before the round.
      exchange_all: the exchanges of the round.
      draw: draws the participants of a period.
      start: starts a period, unless the network can fail.
      end: ends a period.

    Returns:
      The state after the round, and what it cost and achieved.
    """
    number, every, slots = state.round, spec.aggregate_every, spec.slots
    state, down, conditions = _begin(spec, key, state, draw, start)
    availability = _availability(spec, state, conditions)
    first = period_start(spec, number)
    state, records = with_width_config(
        spec, first, partial(exchange_all, spec), data, key, state, availability
    )
    pruned = pruned_shares(spec, state.clients)
    participants, has_current_model = state.participants, state.has_current_model
    reachable = None if availability is None or conditions is None else conditions.reachable
    state, up, overlap = lax.cond(
        (number + 1) % every == 0,
        partial(_end, spec, key, data, reachable=reachable, end=end),
        lambda s: (s, _nothing(spec), jnp.full(slots.num_slots, -1, jnp.float32)),
        state,
    )
    # What devices know of their participants comes together once a round, not after every step.
    by_slot = jax.tree.map(jnp.transpose, (records.losses, records.sent, records.reported))
    by_slot, up, down, overlap, (lacking, kept) = slots.in_one_message(
        (by_slot, up, down, overlap, pruned)
    )
    losses, sent, reported = jax.tree.map(jnp.transpose, by_slot)
    columns = {stream.column for stream in spec.algorithm.streams}
    of_period = {MODEL_UP.column: up, MODEL_DOWN.column: down}
    sent |= {column: count for column, count in of_period.items() if column in columns}
    share = weights(spec, data.partition, participants)
    record = RoundRecord(
        train_loss=_mean_loss(share, losses, records.took_part, availability),
        losses=losses,
        sent=sent,
        took_part=records.took_part,
        has_current_model=has_current_model,
        conditions=conditions,
        participants=participants,
        pruned_fraction=jnp.mean(lacking),
        kept_fractions=jnp.mean(kept, axis=0),
        mask_overlap=jnp.mean(overlap),
        reported=reported,
        adapter_error=_adapter_error(state, (number + 1) % every == 0),
    )
    return state.replace(round=number + 1), record


def _begin(
    spec: RunSpec, key: Array, state: State, draw: Draw, start: StartPeriod
) -> tuple[State, Array, Conditions | None]:
    """Sends the model to the participants that lack it.

    Returns:
      The state, the bytes sent `[P]`, and the conditions of the network; None without one.
    """

    def now(state: State) -> Conditions:
        return round_conditions(spec, key, state.round, state.participants, state.clients)

    starts, same = state.round % spec.aggregate_every == 0, lambda state: state
    unsent = lambda state: (state, _nothing(spec))  # noqa: E731
    if spec.radio is None or not spec.radio.can_fail:
        begin = partial(start, spec, key, draw=draw)
        state, down = lax.cond(starts, begin, unsent, state)
        return state, down, None if spec.radio is None else now(state)
    state = lax.cond(starts, partial(open_period, spec, key, draw=draw), same, state)
    reachable = now(state).reachable
    send = partial(deliver, spec, key, reachable=reachable)
    state, down = lax.cond(jnp.all(state.has_current_model), unsent, send, state)
    # A client with new masks may compute faster than before.
    return state, down, now(state).replace(reachable=reachable)


def _end(
    spec: RunSpec, key: Array, data: Data, state: State, reachable: Array | None, end: EndPeriod
) -> tuple[State, Array, Array]:
    """What ends a period, and then what the algorithm adds to it."""
    partition = data.partition
    after, up, overlap = end(spec, key, partition, state, reachable)
    return spec.algorithm.end_period(spec, partition, after), up, overlap


def _availability(
    spec: RunSpec, state: State, conditions: Conditions | None
) -> Availability | None:
    """Which participants can take part in the round's exchanges; None where nobody can fail to."""
    if spec.radio is None or not spec.radio.can_fail or conditions is None:
        return None
    return Availability(state.has_current_model, conditions)


def _mean_loss(
    share: Array, losses: Array, took_part: Array, availability: Availability | None
) -> Array:
    """Weighted mean over the participants that took part, and over exchanges with any; else 0."""
    if availability is None:
        return jnp.mean(jnp.sum(share[None] * losses, axis=1))
    present = jax.vmap(partial(present_weights, share))(took_part)
    exchanges_with_any = jnp.sum(jnp.any(took_part, axis=1), dtype=jnp.float32)
    return jnp.sum(present * losses) / jnp.maximum(1, exchanges_with_any)


def _adapter_error(state: State, is_end: Array) -> Array | None:
    """The error of the average that ended a period; -1 in other rounds; None where it is 0."""
    error = state.aggregator.adapter_error
    return None if error is None else jnp.where(is_end, error, -1.0)


def _nothing(spec: RunSpec) -> Array:
    """No bytes, for each slot."""
    return jnp.zeros(spec.slots.num_slots, jnp.int32)
