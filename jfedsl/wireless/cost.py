"""Seconds and joules of a round, along its critical path.

    exchange = max_n (forward + smashed uplink) + server + max_n (cut-gradient downlink + backward)
    round    = max_n model downlink + exchanges + max_n model uplink, where these are due

The server waits for who takes part; for who fails to, as long as `_stage` says.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.wireless.radio import Conditions, Radio

KAPPA = 1e-28  # J per cycle and (cycles per second)^2: effective switched capacitance of a chip


class Sent(NamedTuple):
    """What a round's participants sent and received, in bits, and who managed to.

    Attributes:
      smashed_up: float32 `[S, K]`, in vain or not.
      cut_gradient_down: float32 `[S, K]`.
      model_up: float32 `[K]`.
      model_down: float32 `[K]`.
      arrived: bool `[S, K]`, whose activations the server had.
      holding: bool `[K]`, who held the period's model and computed.
    """

    smashed_up: Array
    cut_gradient_down: Array
    model_up: Array
    model_down: Array
    arrived: Array
    holding: Array


class Stage(NamedTuple):
    """A step that everyone waits for the end of.

    Attributes:
      seconds: until it ends, scalar.
      computing: seconds `[K]` of it that each one computes.
      sending: seconds `[K]` of it that each one sends or receives.
      critical: seconds that the one waited for computes, scalar.
      done: bool `[K]`, who managed; the others did nothing, or what they sent was in vain.
    """

    seconds: Array
    computing: Array
    sending: Array
    critical: Array
    done: Array


Stages = tuple[Stage, Stage, Array, Stage, Stage]


class Cost(struct.PyTreeNode):
    """Simulated seconds and joules of a round.

    Per participant, `compute + uplink + downlink + waiting + server = seconds`.

    Attributes:
      seconds: of the round, scalar.
      compute_seconds: of them along the critical path, the server's included, scalar.
      communication_seconds: the others, scalar.
      server: seconds that the server computes, scalar.
      compute: `[K]`, seconds.
      uplink: `[K]`, seconds.
      downlink: `[K]`, seconds.
      waiting: `[K]`, seconds for others than the server.
      compute_joules: `[K]`.
      transmit_joules: `[K]`.
      lost: share of participants' exchanges that the server went on without, scalar.
      stages: model down; activations up, server and gradients down of every exchange, `[S]` each;
        model up. In turns all of that for each participant alone, `[K, ...]`.
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
    stages: Stages


def round_cost(radio: Radio, ids: Array, conditions: Conditions, sent: Sent) -> Cost:
    """What a round costs.

    Args:
      radio: of the run.
      ids: of the participants, int32 `[K]`.
      conditions: of the round.
      sent: what passed.
    """
    there, nobody = conditions.reachable, jnp.zeros_like(conditions.forward)
    up_rate, down_rate, always = conditions.up_rate, conditions.down_rate, jnp.bool_(True)

    def alone(bits: Array, rate: Array, awaited: Array) -> Stage:
        limits, sending = (radio.timeout, None), bits / rate
        return _stage(*limits, nobody, sending, bits > 0, there, there, awaited)

    def forward(bits: Array, arrived: Array) -> Stage:
        sending, limits = bits / up_rate, (radio.timeout, radio.deadline)
        return _stage(*limits, conditions.forward, sending, sent.holding, arrived, there, always)

    def backward(bits: Array, arrived: Array) -> Stage:
        sending = bits / down_rate
        limits = None, None
        return _stage(*limits, conditions.backward, sending, arrived, arrived, there, always)

    # Who holds the model already does not wait for others to be reached.
    start = alone(sent.model_down, down_rate, ~jnp.any(sent.holding))
    end = alone(sent.model_up, up_rate, always)
    up = jax.vmap(forward)(sent.smashed_up, sent.arrived)
    down = jax.vmap(backward)(sent.cut_gradient_down, sent.arrived)
    flops = jnp.sum(sent.arrived, axis=1, dtype=jnp.float32) * radio.work.server
    server = flops / radio.network.server_flops
    seconds = start.seconds + jnp.sum(up.seconds + server + down.seconds) + end.seconds
    computing = jnp.sum(up.critical + server + down.critical)
    compute = jnp.sum(up.computing + down.computing, axis=0)
    uplink = jnp.sum(up.sending, axis=0) + end.sending
    downlink = jnp.sum(down.sending, axis=0) + start.sending
    waiting = seconds - jnp.sum(server) - compute - uplink - downlink
    speed = radio.site.devices.flops[ids]
    # kappa * cycles * frequency^2, where cycles are seconds * frequency.
    frequency = speed / radio.network.flops_per_cycle
    joules = KAPPA * frequency * frequency * frequency * compute  # its cube may be too large
    return Cost(
        seconds=seconds,
        compute_seconds=computing,
        communication_seconds=seconds - computing,
        server=jnp.sum(server),
        compute=compute,
        uplink=uplink,
        downlink=downlink,
        waiting=jnp.maximum(waiting, 0.0),  # 0 up to rounding for who is waited for
        compute_joules=joules,
        transmit_joules=radio.site.devices.power[ids] * uplink,
        lost=jnp.mean(~sent.arrived, dtype=jnp.float32),
        stages=(start, up, server, down, end),
    )


def in_turn(turns: Cost) -> Cost:
    """The cost of a round in which participants exchange one after another.

    Args:
      turns: of each participant's turn, in any order, `[K]`; of the one in it, `[K, 1]`.
    """
    scalars = ("seconds", "compute_seconds", "communication_seconds", "server")
    sums = {name: jnp.sum(getattr(turns, name)) for name in scalars}
    names = ("compute", "uplink", "downlink", "compute_joules", "transmit_joules")
    own = {name: getattr(turns, name)[:, 0] for name in names}
    busy = own["compute"] + own["uplink"] + own["downlink"]
    waiting = jnp.maximum(sums["seconds"] - sums["server"] - busy, 0.0)
    lost = jnp.mean(turns.lost)
    return Cost(**sums, **own, waiting=waiting, lost=lost, stages=turns.stages)


def _stage(
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
