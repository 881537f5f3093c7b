"""Split training with local losses (CSE-FSL, arXiv 2302.05599): no client waits for a gradient.

Every client has a small auxiliary head behind its part of the model (--aux), and steps both on that
head's loss. Every --upload_every exchanges it sends the activations of that mini-batch up with
their labels, and the server steps on them; nothing comes back. Client part and head are averaged at
the end of a period. The definition is ours, after the abstract and the public code of that work.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jfedsl.engine.algorithm import CUT, FEDERATED, PERSONAL, PROXIMAL, SERVER, Algorithm, Option
from jfedsl.engine.auxiliary import auxiliary_losses
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.clocks import never_waiting
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import Client, Server
from jfedsl.engine.streams import CLIENT_GRADIENT, MODEL_DOWN, MODEL_UP, SMASHED
from jfedsl.engine.transmit import send_up
from jfedsl.errors import flag_error
from jfedsl.models import blocks
from jfedsl.models.layers import Model

_HIDDEN = re.compile(r"mlp\(([1-9]\d{0,5})\)")  # the head's units


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """Participants step on their own heads' losses; the server steps where an upload is due."""
    clients, batch = draw_batch(x, clients)
    clients, smashed, client_vjp = client_forward(x, clients, batch.inputs)
    losses, head_gradient, cut_gradient = auxiliary_losses(x, clients, smashed, batch.labels)
    client_gradient = client_vjp(cut_gradient)[: x.spec.cut]
    clients = client_step(x, clients, client_gradient + head_gradient)

    def upload(server: Server, clients: Client) -> tuple[Server, Client, Any]:
        clients, up = send_up(x, clients, smashed, batch.lengths)
        return joint_step(x, server, up, batch.labels)[0], clients, up.bytes

    def keep(server: Server, clients: Client) -> tuple[Server, Client, Any]:
        return server, clients, jnp.zeros(clients.number.shape, jnp.int32)

    due = x.step % x.spec.options["upload_every"] == 0
    server, clients, sent = lax.cond(due, upload, keep, server, clients)
    return Outcome(server, clients, losses, x.has_current_model(), {SMASHED.column: sent})


def head(options: Mapping[str, Any], classes: int, of_tokens: bool) -> Model:
    """The layers of the head that `--aux` names, on the activation at the cut `[B, ...]`.

    Raises:
      UserError: it makes no outputs for each position, which the task needs.
    """
    hidden = _HIDDEN.fullmatch(options["aux"])
    last, before = blocks.logits(classes), () if of_tokens else (blocks.flatten(),)
    if options["aux"] == "conv":
        if of_tokens:
            raise flag_error("aux", "conv", "linear or mlp(UNITS) where tokens are predicted")
        return blocks.convolution("aux_conv", 32, "none"), blocks.average("aux_mean"), last
    if hidden:
        return *before, blocks.dense("aux_dense", int(hidden[1]), "none"), last
    return *before, last


AUX = Option(
    "aux",
    "linear",
    "Auxiliary head of every client, behind the cut: linear, mlp(UNITS) with a hidden layer, or "
    "conv, a convolution of 32 channels averaged over pixels.",
    "linear, mlp(UNITS) or conv",
    lambda value: value in ("linear", "conv") or _HIDDEN.fullmatch(value) is not None,
)
UPLOAD_EVERY = Option(
    "upload_every",
    1,
    "Exchanges between two uploads of activations to the server.",
    "a whole number from 1 to 1000000",
    lambda value: 1 <= value <= 1_000_000,
)

# In the first exchange of a run, and then in every h-th one.
UPLOADS = SMASHED._replace(
    messages=lambda spec, exchanges: -(-exchanges // int(spec.options["upload_every"]))
)

ALGORITHM = Algorithm(
    exchange,
    uses=FEDERATED | PERSONAL | PROXIMAL | CUT | SERVER,
    streams=(UPLOADS, CLIENT_GRADIENT, MODEL_UP, MODEL_DOWN),
    options=(AUX, UPLOAD_EVERY),
    clock=never_waiting,
    auxiliary=head,
    server_batch=lambda participants: participants,
)
