"""Split learning with one averaged gradient for all (SFL-GA, arXiv 2501.01078; EPSL, 2303.15991).

The server averages the cut gradients of all clients by position in the mini-batch, for the first
--broadcast_share of the positions, and broadcasts the average: one message for all, at the rate of
the slowest receiver. The gradients of the other positions go to each client as in FedSL. With a
share of 1 this is SFL-GA. The definition is ours, after the abstracts of these works; client parts
are averaged at the end of a period as in FedSL.
"""

import jax.numpy as jnp

from jfedsl.engine.algorithm import PERSONAL, PROXIMAL, SPLIT, Algorithm, Option
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import Client, RunSpec, Server
from jfedsl.engine.streams import (
    CLIENT_GRADIENT,
    CUT_GRADIENT,
    DOWN,
    MODEL_DOWN,
    MODEL_UP,
    SMASHED,
    Stream,
)
from jfedsl.engine.transmit import broadcast, send_down, send_up


def _shared(spec: RunSpec) -> int:
    """Positions of a mini-batch whose gradient is averaged over clients."""
    return round(float(spec.options["broadcast_share"]) * spec.batch_size)


SHARED_GRADIENT = Stream(
    "shared_gradient",
    DOWN,
    of_batch=True,
    stage=16,
    broadcast=True,
    flag="cut_gradient",
    rows=_shared,
)
REST_GRADIENT = CUT_GRADIENT._replace(rows=lambda spec: spec.batch_size - _shared(spec))


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """As in FedSL, but the first positions of all mini-batches are answered by one message."""
    shared, none = _shared(x.spec), jnp.zeros(clients.number.shape, jnp.int32)
    clients, batch = draw_batch(x, clients)
    clients, smashed, client_vjp = client_forward(x, clients, batch.inputs)
    clients, up = send_up(x, clients, smashed, batch.lengths)
    server, losses, cut_gradient = joint_step(x, server, up, batch.labels)
    sent, parts = {SMASHED.column: up.bytes}, []
    if shared:
        mean = jnp.tensordot(x.spec.slots.weights(up.weights), cut_gradient[:, :shared], 1)
        down = broadcast(x, clients, mean, SHARED_GRADIENT)
        sent[SHARED_GRADIENT.column] = down.bytes
        parts.append(down.values)
    if shared < x.spec.batch_size:
        kept = None if up.kept is None else up.kept[:, shared:]
        clients, down = send_down(x, clients, cut_gradient[:, shared:], kept, REST_GRADIENT)
        sent[REST_GRADIENT.column] = down.bytes
        parts.append(down.values)
    answer = jnp.concatenate(parts, axis=1)
    clients = client_step(x, clients, client_vjp(up.vjp(answer)))
    sent = {SHARED_GRADIENT.column: none, REST_GRADIENT.column: none, **sent}
    return Outcome(server, clients, losses, up.took_part(), sent)


BROADCAST_SHARE = Option(
    "broadcast_share",
    1.0,
    "Share of the positions of a mini-batch whose cut gradient is averaged over clients and "
    "broadcast.",
    "a number in [0, 1]",
    lambda value: 0 <= value <= 1,
)

ALGORITHM = Algorithm(
    exchange,
    uses=SPLIT | PERSONAL | PROXIMAL,
    streams=(SMASHED, REST_GRADIENT, SHARED_GRADIENT, CLIENT_GRADIENT, MODEL_UP, MODEL_DOWN),
    options=(BROADCAST_SHARE,),
    server_batch=lambda participants: participants,
)
