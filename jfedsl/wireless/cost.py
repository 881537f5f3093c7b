"""Seconds and joules of a round, along its critical path.

    exchange = max_n (forward + smashed uplink) + server + max_n (cut-gradient downlink + backward)
    round    = max_n model downlink + exchanges + max_n model uplink, where these are due

The server waits for the participants that take part, and for the others as long as
`stages.waited_for` says.

Where clients hold the last layers too, an exchange has four legs on the air:

    exchange = max_n (forward + smashed uplink) + server's forward pass
             + max_n (tail-input downlink + tail + tail-gradient uplink) + server's backward pass
             + max_n (cut-gradient downlink + backward)

Where it serves client after client, all of a round's first activations go up together, and all of
its last gradients go down together; in between a client has the band to itself and nobody else
computes:

    turn  = S * server
            + (S - 1) * (cut-gradient downlink + backward + forward + smashed uplink)
    round = max_n model downlink + max_n (first forward + smashed uplink) + sum_n turn
            + max_n (last cut-gradient downlink + backward) + max_n model uplink

With S = 1 both are the same.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.wireless.arrivals import ServerStep
from jfedsl.wireless.radio import Conditions, Radio
from jfedsl.wireless.stages import Stage, Stages, waited_for
from jfedsl.wireless.tail import TailStages, tail_stages

KAPPA = 1e-28  # J per cycle and (cycles per second)^2: effective switched capacitance of a chip


class Sent(NamedTuple):
    """What a round's participants sent and received, in bits, and which messages arrived.

    Attributes:
      up: float32 `[S, K]`, to the server in each exchange, in vain or not.
      down: float32 `[S, K]`, from the server in each exchange.
      model_up: float32 `[K]`.
      model_down: float32 `[K]`.
      arrived: bool `[S, K]`, whose activations the server had.
      has_current_model: bool `[K]`, which held the period's model and computed.
      tail: what comes down to the tail in each exchange, and what goes up from it, `[S, K]` each;
        None where clients have no tail.
    """

    up: Array
    down: Array
    model_up: Array
    model_down: Array
    arrived: Array
    has_current_model: Array
    tail: tuple[Array, Array] | None = None


class Cost(struct.PyTreeNode):
    """Simulated seconds and joules of a round.

    Per participant, `compute + uplink + downlink + waiting + server = seconds`, unless the server
    computes while participants do.

    Attributes:
      seconds: of the round, scalar.
      compute_seconds: of them along the critical path, the server's included, scalar.
      communication_seconds: the others, scalar.
      server: seconds in which the clients wait for the server to compute, scalar. Where clients do
        not wait for it in a round, what it needs beyond the slowest of them.
      compute: `[K]`, seconds.
      uplink: `[K]`, seconds.
      downlink: `[K]`, seconds.
      waiting: `[K]`, seconds for others than the server.
      compute_joules: `[K]`.
      transmit_joules: `[K]`.
      lost: share of participants' exchanges that the server went on without, scalar.
      stages: model down; activations up, server and gradients down of every exchange, `[S]` each;
        model up. Where participants take turns all of that for each one alone, `[K, ...]`. Where
        the server serves client after client, in the order of `[K]`, the exchanges of each one's
        turn, `[S, K]`; the first `up` and the last `down` are shared by all participants. Where
        clients do not wait for the server, two stand for all, up to an answer and from there on.
      tail: stages besides, where clients have a tail; the server's part of `stages` is then its
        forward passes. None where they have none.
    """

    seconds: Array
    compute_seconds: Array
    communication_seconds: Array
    server: Array
    compute: Array
    uplink: Array
    downlink: Array
    waiting: Array
    compute_joules: Array
    transmit_joules: Array
    lost: Array
    stages: Stages | ServerStep
    tail: TailStages | None = None


def round_cost(
    radio: Radio, ids: Array, conditions: Conditions, sent: Sent, one_by_one: bool = False
) -> Cost:
    """What a round costs.

    Args:
      radio: network and hardware of the run.
      ids: of the participants, int32 `[K]`.
      conditions: of the round.
      sent: what passed.
      one_by_one: whether the server serves client after client, in the order of `ids`.
    """
    start, end = period_ends(radio, conditions, sent)
    up, down = _exchanges(radio, conditions, sent)
    flops, tail = radio.flop_counts.server, None
    if sent.tail is not None:
        flops -= radio.flop_counts.server_backward
        tail = tail_stages(radio, ids, conditions, sent.tail, sent.arrived)
    server = jnp.where(sent.arrived, flops, 0.0) / radio.network.server_flops
    if one_by_one:
        up, down = _turns(radio, conditions, sent, up, down)
    else:
        server = jnp.sum(server, axis=1)

    def passed(up: Array, down: Array) -> Array:
        """Seconds from the first activations to the last gradients."""
        if not one_by_one:
            return jnp.sum(up + server + down)
        return up[0, 0] + jnp.sum(up[1:]) + jnp.sum(server) + jnp.sum(down[:-1]) + down[-1, 0]

    seconds, critical = passed(up.seconds, down.seconds), passed(up.critical, down.critical)
    if tail is not None:
        seconds += jnp.sum(tail.clients.seconds + tail.server)
        critical += jnp.sum(tail.clients.critical + tail.server)
    stages = start, up, server, down, end
    return total(radio, ids, sent, seconds, critical, stages, tail)


def period_ends(radio: Radio, conditions: Conditions, sent: Sent) -> tuple[Stage, Stage]:
    """The model goes down at the start of a period, and comes up at its end."""
    there, nobody = conditions.reachable, jnp.zeros_like(conditions.forward)

    def alone(bits: Array, rate: Array, awaited: Array) -> Stage:
        limits, sending = (radio.timeout, None), bits / rate
        return waited_for(*limits, nobody, sending, bits > 0, there, there, awaited)

    # A participant that holds the model already does not wait for others to be reached.
    start = alone(sent.model_down, conditions.down_rate, ~jnp.any(sent.has_current_model))
    return start, alone(sent.model_up, conditions.up_rate, jnp.bool_(True))


def total(
    radio: Radio, ids: Array, sent: Sent, exchanging: Array, computing: Array, stages: Stages,
    tail: TailStages | None = None,
) -> Cost:  # fmt: skip
    """The cost of a round from its stages.

    Args:
      radio: network and hardware of the run.
      ids: of the participants, int32 `[K]`.
      sent: what passed.
      exchanging: seconds that the exchanges take.
      computing: seconds of these in which whoever is waited for computes.
      stages: of the round.
      tail: stages besides.
    """
    start, up, server, down, end = stages
    seconds = start.seconds + exchanging + end.seconds
    compute = jnp.sum(up.computing + down.computing, axis=0)
    uplink = jnp.sum(up.sending, axis=0) + end.sending
    downlink = jnp.sum(down.sending, axis=0) + start.sending
    serving = jnp.sum(server)
    if tail is not None:
        compute += jnp.sum(tail.clients.computing, axis=0)
        uplink += jnp.sum(tail.clients.sending, axis=0)
        downlink += jnp.sum(jnp.asarray(tail.clients.receiving), axis=0)
        serving += jnp.sum(tail.server)
    waiting = seconds - serving - compute - uplink - downlink
    compute_joules, transmit_joules = joules(radio, ids, compute, uplink)
    return Cost(
        seconds=seconds,
        compute_seconds=computing,
        communication_seconds=seconds - computing,
        server=serving,
        compute=compute,
        uplink=uplink,
        downlink=downlink,
        waiting=jnp.maximum(waiting, 0.0),  # 0 up to rounding for the one waited for
        compute_joules=compute_joules,
        transmit_joules=transmit_joules,
        lost=jnp.mean(~sent.arrived, dtype=jnp.float32),
        stages=stages,
        tail=tail,
    )


def joules(radio: Radio, ids: Array, computing: Array, sending: Array) -> tuple[Array, Array]:
    """Energy of participants, `[K]`, J: of computing and of sending for so many seconds, `[K]`."""
    hardware = radio.deployment.hardware
    # kappa * cycles * frequency^2, where cycles are seconds * frequency.
    frequency = hardware.flops[ids] / radio.network.flops_per_cycle
    computed = KAPPA * frequency * frequency * frequency * computing  # its cube may be too large
    return computed, hardware.power[ids] * sending


def _exchanges(radio: Radio, conditions: Conditions, sent: Sent) -> tuple[Stage, Stage]:
    """Activations up and gradients down of all exchanges, each together with others', `[S]`."""
    there, always = conditions.reachable, jnp.bool_(True)

    def forward(bits: Array, arrived: Array) -> Stage:
        sending, limits = bits / conditions.up_rate, (radio.timeout, radio.deadline)
        return waited_for(
            *limits, conditions.forward, sending, sent.has_current_model, arrived, there, always
        )

    def backward(bits: Array, arrived: Array) -> Stage:
        sending, limits = bits / conditions.down_rate, (None, None)
        return waited_for(*limits, conditions.backward, sending, arrived, arrived, there, always)

    up = jax.vmap(forward)(sent.up, sent.arrived)
    return up, jax.vmap(backward)(sent.down, sent.arrived)


def _turns(
    radio: Radio, conditions: Conditions, sent: Sent, up: Stage, down: Stage
) -> tuple[Stage, Stage]:
    """`_exchanges` of each participant alone, `[S, K]`, but for the first `up` and last `down`."""
    alone = conditions.replace(up_rate=conditions.lone_up_rate, down_rate=conditions.lone_down_rate)
    # Whose first activation was out of reach is passed over.
    held = sent._replace(has_current_model=sent.has_current_model & conditions.reachable)
    each = jax.vmap(partial(_exchanges, radio))(*each_alone((alone, held)))
    steps, count = sent.arrived.shape
    alone_up, alone_down = jax.tree.map(lambda x: x.reshape(count, steps).T, each)
    return (
        jax.tree.map(lambda turn, together: turn.at[0].set(together[0]), alone_up, up),
        jax.tree.map(lambda turn, together: turn.at[-1].set(together[-1]), alone_down, down),
    )


def each_alone(rows: Any) -> Any:
    """Arrays `[..., K]` of a round's participants as `[K, ..., 1]`, a turn each."""
    return jax.tree.map(lambda x: jnp.moveaxis(x[..., None], -2, 0), rows)


def in_turn(turns: Cost) -> Cost:
    """The cost of a round in which participants exchange one after another.

    Args:
      turns: of each participant's turn, in any order, `[K]`; of the one in it, `[K, 1]`.
    """
    scalars = ("seconds", "compute_seconds", "communication_seconds", "server")
    sums: dict[str, Any] = {name: jnp.sum(getattr(turns, name)) for name in scalars}
    names = ("compute", "uplink", "downlink", "compute_joules", "transmit_joules")
    by_participant: dict[str, Any] = {name: getattr(turns, name)[:, 0] for name in names}
    busy = by_participant["compute"] + by_participant["uplink"] + by_participant["downlink"]
    waiting = jnp.maximum(sums["seconds"] - sums["server"] - busy, 0.0)
    lost = jnp.mean(turns.lost)
    return Cost(**sums, **by_participant, waiting=waiting, lost=lost, stages=turns.stages)
