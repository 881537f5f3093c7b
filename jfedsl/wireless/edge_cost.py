"""Seconds and joules of a round over edge servers, each with a backhaul to the cloud.

An edge passes on what its clients sent once it has all of it. With the server in the cloud all
edges wait for each other in every exchange:

    exchange = max_e (max_n of e (forward + smashed uplink) + smashed backhaul) + server
             + max_e (cut-gradient backhaul + max_n of e (cut-gradient downlink + backward))

With a server at each edge, edges run apart in a round:

    exchanges = max_e sum over exchanges of (max_n of e (forward + smashed uplink) + server
                                             + max_n of e (cut-gradient downlink + backward))

Both have, where these are due,

    round = model backhaul down + max_n model downlink + exchanges
          + max_n model uplink + model backhaul up
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.wireless.cost import Cost, Sent, total
from jfedsl.wireless.radio import Conditions, Radio
from jfedsl.wireless.stages import Stage


class Backhaul(NamedTuple):
    """The links of edges to the cloud in a round.

    Attributes:
      rate: of each link in either direction, bit/s.
      model_down: bits of the model that every edge receives, scalar.
      model_up: bits of the model that every edge sends, scalar.
    """

    rate: float
    model_down: Array
    model_up: Array


def cost_over_edges(
    radio: Radio, ids: Array, conditions: Conditions, sent: Sent, edge: np.ndarray,
    backhaul: Backhaul, server_at_edges: bool,
) -> Cost:  # fmt: skip
    """What a round costs in which nobody can fail.

    Args:
      radio: network and hardware of the run; its server is that of the cloud, or of every edge.
      ids: of the participants, int32 `[K]`.
      conditions: of the round.
      sent: what passed on the air.
      edge: of each participant, int `[K]`; all edges have equally many.
      backhaul: links to the cloud.
      server_at_edges: whether each edge has a server; else activations and gradients pass the
        backhauls.
    """
    edges, silent = int(edge.max()) + 1, jnp.zeros_like(conditions.forward)
    legs = _legs(conditions, sent)
    by_edge = [jax.vmap(lambda leg: _slowest(leg, edge, edges))(leg) for leg in legs]
    start, end = (
        _of_all(silent, bits / rate, beside / backhaul.rate)
        for bits, rate, beside in (
            (sent.model_down, conditions.down_rate, backhaul.model_down),
            (sent.model_up, conditions.up_rate, backhaul.model_up),
        )
    )
    served = jnp.sum(sent.arrived, axis=1, dtype=jnp.float32) * radio.flop_counts.server
    server = served / radio.network.server_flops
    if server_at_edges:
        server /= edges
        up, down, seconds, critical = _apart(legs, by_edge, server, edge)
    else:
        relays = [_by_edge(bits, edge, edges) / backhaul.rate for bits in (sent.up, sent.down)]
        up, down = map(_together, legs, by_edge, relays)
        seconds = jnp.sum(up.seconds + server + down.seconds)
        critical = jnp.sum(up.critical + server + down.critical)
    return total(radio, ids, sent, seconds, critical, (start, up, server, down, end))


class _Leg(NamedTuple):
    """Seconds `[..., K]` that each participant computes and sends or receives in a leg."""

    computing: Array
    sending: Array


class _Slowest(NamedTuple):
    """Of each edge `[E]` in a leg: seconds until all are done, the slowest one's of computing."""

    seconds: Array
    critical: Array


def _legs(conditions: Conditions, sent: Sent) -> tuple[_Leg, _Leg]:
    """Both legs of all exchanges, `[S, K]`."""
    forward, backward = (
        jnp.broadcast_to(x[None], sent.up.shape) for x in (conditions.forward, conditions.backward)
    )
    up = sent.up / conditions.up_rate[None]
    down = sent.down / conditions.down_rate[None]
    return _Leg(forward, up), _Leg(backward, down)


def _slowest(leg: _Leg, edge: np.ndarray, edges: int) -> _Slowest:
    """Of one exchange."""
    members = jnp.asarray(edge)[None] == jnp.arange(edges)[:, None]
    attempts = jnp.where(members, (leg.computing + leg.sending)[None], -1.0)
    last = jnp.argmax(attempts, axis=1)
    return _Slowest(jnp.max(attempts, axis=1), leg.computing[last])


def _by_edge(bits: Array, edge: np.ndarray, edges: int) -> Array:
    """Sums over each edge's participants of `bits[S, K]`, `[S, E]`."""
    return jnp.zeros((len(bits), edges)).at[:, edge].add(bits)


def _of_all(computing: Array, sending: Array, beside: Array) -> Stage:
    """A leg of the model, which all wait for, and so long for the backhaul."""
    critical, done = jnp.zeros(()), jnp.ones(sending.shape, bool)
    return Stage(jnp.max(sending) + beside, computing, sending, critical, done)


def _together(leg: _Leg, slowest: _Slowest, relay: Array) -> Stage:
    """Stages `[S, ...]` that end with the edge whose clients and backhaul are done last."""
    ends = slowest.seconds + relay
    last = jnp.argmax(ends, axis=1)[:, None]
    critical = jnp.take_along_axis(slowest.critical, last, axis=1)[:, 0]
    return Stage(jnp.max(ends, axis=1), *leg, critical, jnp.ones(leg.sending.shape, bool))


def _apart(
    legs: tuple[_Leg, _Leg], by_edge: list[_Slowest], server: Array, edge: np.ndarray
) -> tuple[Stage, Stage, Array, Array]:
    """Stages of which each edge waits for its own clients, by participant, `[S, K]`.

    Edges that are done early wait at the end of the last exchange.

    Returns:
      Both legs; seconds from the first to the last; and of these those in which whoever is waited
      for computes.
    """
    up, down = by_edge
    whole = jnp.sum(up.seconds + down.seconds, axis=0) + jnp.sum(server)
    last = jnp.argmax(whole)
    critical = jnp.sum(up.critical[:, last] + down.critical[:, last] + server)
    early = down.seconds.at[-1].add(whole[last] - whole)
    stages = [
        Stage(seconds[:, edge], *leg, critical, jnp.ones(leg.sending.shape, bool))
        for seconds, leg in ((up.seconds, legs[0]), (early, legs[1]))
    ]
    return stages[0], stages[1], whole[last], critical
