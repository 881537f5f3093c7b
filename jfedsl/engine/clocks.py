"""Clocks: in which order the legs of a round follow each other in simulated time.

An algorithm names one as its `clock`: a function from the run and the record of a round to what the
round costs in seconds and joules. Where clients compute something else than a forward and a
backward pass, its own clock changes `record.conditions` and calls one of these clocks.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import RunSpec
from jfedsl.engine.streams import DOWN, MODEL_DOWN, MODEL_UP, UP, Stream
from jfedsl.wireless import cost
from jfedsl.wireless.cost import Cost, Sent
from jfedsl.wireless.radio import Conditions, Radio
from jfedsl.wireless.without_waiting import cost_without_waiting


def side_by_side(spec: RunSpec, record: RoundRecord) -> Cost:
    """Participants compute and send side by side, and the server waits for all in every exchange.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round.
    """
    return cost.round_cost(*facts(spec, record))


def client_by_client(spec: RunSpec, record: RoundRecord) -> Cost:
    """The server serves all exchanges of one participant before those of the next one.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round, its participants in the order in which they are served.
    """
    return cost.round_cost(*facts(spec, record), one_by_one=True)


def taking_turns(spec: RunSpec, record: RoundRecord) -> Cost:
    """Every participant has a round of its own, one after another.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round.
    """
    radio, *rows = facts(spec, record)
    turns = jax.vmap(partial(cost.round_cost, radio))(*cost.each_alone(tuple(rows)))
    return cost.in_turn(turns)


def training_alone(spec: RunSpec, record: RoundRecord) -> Cost:
    """Participants wait for nobody between the forward and the backward pass of an exchange.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round, without messages in its exchanges.
    """
    radio, ids, conditions, sent = facts(spec, record)
    passes = conditions.forward + conditions.backward
    whole = conditions.replace(forward=passes, backward=jnp.zeros_like(passes))
    return cost.round_cost(radio, ids, whole, sent)


def never_waiting(spec: RunSpec, record: RoundRecord) -> Cost:
    """Participants do all exchanges of a round without waiting; the server works alongside.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round, in whose exchanges nothing comes down.
    """
    return cost_without_waiting(*facts(spec, record))


def waiting_for_answers(spec: RunSpec, record: RoundRecord) -> Cost:
    """Participants wait for the server where something comes down, and then fit auxiliary layers.

    All other exchanges of a round they do without waiting, as with `never_waiting`.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round; something comes down in one of its exchanges at most.
    """
    radio, ids, conditions, sent = facts(spec, record)
    fit = radio.flop_counts.fit / radio.deployment.hardware.flops[ids]
    return cost_without_waiting(radio, ids, conditions, sent, fit)


def facts(spec: RunSpec, record: RoundRecord) -> tuple[Radio, Array, Conditions, Sent]:
    """The radio, the participants, their conditions, and the bits that each sent and received.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round.
    """
    radio, conditions = spec.radio, record.conditions
    assert radio is not None and conditions is not None
    nothing = jnp.zeros(record.took_part.shape)

    def bits(stream: Stream) -> Array:
        count = 8.0 * record.sent[stream.column].astype(jnp.float32)
        if not stream.broadcast:
            return count
        # The whole band carries one message, at the rate of the slowest receiver.
        rates = jnp.where(record.took_part, conditions.lone_down_rate[None], jnp.inf)
        return count * conditions.down_rate[None] / jnp.min(rates, axis=1, keepdims=True)

    up, down, tail = nothing, nothing, {DOWN: nothing, UP: nothing}
    for stream in spec.algorithm.streams:
        if stream.of_batch and stream.at_tail:
            tail[stream.direction] = tail[stream.direction] + bits(stream)
        elif stream.of_batch and stream.direction == UP:
            up = up + bits(stream)
        elif stream.of_batch:
            down = down + bits(stream)
    model = {
        stream: bits(stream) if stream.column in record.sent else nothing[0]
        for stream in (MODEL_UP, MODEL_DOWN)
    }
    sent = Sent(
        up=up,
        down=down,
        model_up=model[MODEL_UP],
        model_down=model[MODEL_DOWN],
        arrived=record.took_part,
        has_current_model=record.has_current_model,
        tail=(tail[DOWN], tail[UP]) if spec.tail else None,
    )
    return radio, record.participants, conditions, sent
