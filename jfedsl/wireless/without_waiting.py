"""Seconds and joules of a round in which clients step on losses of their own.

They do not wait for the server within a round:

    round = max_n model downlink + max(max_n sum of (forward + backward + smashed uplink), server)
            + max_n model uplink

Where it answers one of their uploads, they wait for the answer and fit their heads to it. What they
do up to the forward pass of that exchange is one part of the round, and the rest another:

    round = max_n model downlink + max_n first part + server
            + max(max_n (cut-gradient downlink + fit + second part), server) + max_n model uplink
"""

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.wireless.cost import Cost, Sent, period_ends, total
from jfedsl.wireless.radio import Conditions, Radio
from jfedsl.wireless.stages import Stage, waited_for


def cost_without_waiting(
    radio: Radio, ids: Array, conditions: Conditions, sent: Sent, fit: Array | float = 0.0
) -> Cost:
    """What a round costs in which participants wait for the server only where it answers.

    The server works on what arrives alongside. The round lasts until the slowest participant is
    done and the server has worked everything off, whichever is later.

    Args:
      radio: network and hardware of the run.
      ids: of the participants, int32 `[K]`.
      conditions: of the round.
      sent: what passed; `arrived` says which participants trained. What came down are the answers
        in one exchange, or nothing.
      fit: seconds that each participant computes when it has its answer, `[K]`.
    """
    start, end = period_ends(radio, conditions, sent)
    tried, answered = jnp.any(sent.arrived, axis=0), jnp.any(sent.down > 0, axis=0)
    done = tried & conditions.reachable  # what others send is in vain, and nobody waits for it
    # Exchanges up to the one with the answers, that one included; none where nothing came down.
    before = jnp.cumsum(jnp.any(sent.down > 0, axis=1)[::-1])[::-1] > 0
    computing, sending = _busy(conditions, sent, jnp.ones_like(before))
    early_computing, early_sending = _busy(conditions, sent, before)

    def part(computing: Array, sending: Array, done: Array, awaited: bool) -> Stage:
        limits, reachable = (None, None), conditions.reachable
        return waited_for(*limits, computing, sending, tried, done, reachable, jnp.bool_(awaited))

    # Without an answer a participant does not wait for those of others, but goes on computing.
    first = part(
        jnp.where(answered, early_computing - conditions.backward, computing),
        jnp.where(answered, early_sending, 0.0),
        answered,
        awaited=False,
    )
    back = _back(conditions, sent, answered, fit)
    second = part(
        computing + jnp.where(answered, fit, 0.0) - first.computing,
        sending + back.sending - first.sending,
        done,
        awaited=True,
    )
    served = _served(radio, conditions, sent, before)
    later = _served(radio, conditions, sent, ~before)
    rest = jnp.maximum(later - second.seconds, 0.0)  # when all participants are done
    seconds, critical = (
        a + b + served + rest
        for a, b in ((first.seconds, second.seconds), (first.critical, second.critical))
    )
    up, down = _as_exchanges(first, back, second)
    stages = start, up, jnp.stack([served, rest]), down, end
    return total(radio, ids, sent, seconds, critical, stages)


def _busy(conditions: Conditions, sent: Sent, among: Array) -> tuple[Array, Array]:
    """Seconds `[K]` of both passes and of sending in some exchanges, bool `[S]`."""
    count = jnp.sum(sent.arrived & among[:, None], axis=0, dtype=jnp.float32)
    bits = jnp.sum(jnp.where(among[:, None], sent.up, 0.0), axis=0)
    return count * (conditions.forward + conditions.backward), bits / conditions.up_rate


def _served(radio: Radio, conditions: Conditions, sent: Sent, among: Array) -> Array:
    """Seconds in which the server works on the uploads of some exchanges, bool `[S]`."""
    arrived = (sent.up > 0) & sent.arrived & conditions.reachable[None] & among[:, None]
    uploads = jnp.sum(arrived, dtype=jnp.float32)
    return uploads * radio.flop_counts.server / radio.network.server_flops


def _back(conditions: Conditions, sent: Sent, answered: Array, fit: Array | float) -> Stage:
    """The answer, the fit and the backward pass, after which nobody waits for others."""
    computing = jnp.where(answered, fit + conditions.backward, 0.0)
    receiving = jnp.sum(sent.down, axis=0) / conditions.down_rate
    return Stage(computing + receiving, computing, receiving, jnp.float32(0), answered)


def _as_exchanges(first: Stage, back: Stage, second: Stage) -> tuple[Stage, Stage]:
    """Both parts of a round as stages of two exchanges, `[2, K]`, of which `back` is in the second.

    Args:
      first: until the server begins its answer.
      back: begins the second part, at each participant alone.
      second: from the answer on.
    """
    both = jnp.broadcast_to(first.seconds, back.seconds.shape)
    lost = jnp.any(first.done) & ~first.done  # nobody loses an exchange that is none
    rest = Stage(
        second.seconds - back.seconds,
        second.computing - back.computing,
        second.sending - back.sending,
        second.critical,
        second.done,
    )
    none = jax.tree.map(jnp.zeros_like, back)

    def stacked(*parts: Stage) -> Stage:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    return stacked(first._replace(seconds=both, done=~lost), rest), stacked(back, none)
