"""Local losses that follow the server's gradients (FSL-SAGE, arXiv 2505.23182).

Clients train as in `local_loss`: on the loss of a head of their own, with an upload every
--upload_every exchanges. In the first upload of each --align_every-th period the server answers
with the gradient at the cut, and each client fits its head to it, so that the head's loss has about
that gradient at the cut. The definition is ours, after the abstract and the public code of that
work; there the server fits the heads, on all activations that it has kept, and nothing else trains
them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.algorithms.local_loss import AUX, UPLOAD_EVERY, UPLOADS, head
from jfedsl.engine.algorithm import CUT, FEDERATED, PERSONAL, PROXIMAL, SERVER, Algorithm, Option
from jfedsl.engine.auxiliary import auxiliary_losses, fit_auxiliary
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.clocks import waiting_for_answers
from jfedsl.engine.exchange import Exchange, Outcome, Reported
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import Client, RunSpec, Server
from jfedsl.engine.streams import CLIENT_GRADIENT, CUT_GRADIENT, MODEL_DOWN, MODEL_UP, SMASHED
from jfedsl.engine.transmit import Uplink, send_down, send_up
from jfedsl.errors import flag_error
from jfedsl.sharding.slots import where_rows

FIT_ERROR = "fit_error"  # the column of metrics.csv


class _Answer(NamedTuple):
    """What became of the server's answer to an upload.

    Attributes:
      bytes: int32 `[P]`, that each participant received.
      error: of each participant's head after its fit.
    """

    bytes: Array
    error: Reported


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """The server steps where an upload is due and may answer it; participants fit, then step."""
    nothing, cycle = jnp.zeros(clients.number.shape, jnp.int32), _cycle(x.spec)
    no_answer = _Answer(nothing, Reported(nothing.astype(jnp.float32), nothing.astype(bool)))
    every = x.spec.options["upload_every"]
    clients, batch = draw_batch(x, clients)
    clients, smashed, client_vjp = client_forward(x, clients, batch.inputs)

    def upload(server: Server, clients: Client) -> tuple[Server, Client, Array, _Answer]:
        clients, up = send_up(x, clients, smashed, batch.lengths)
        server, _, cut_gradient = joint_step(x, server, up, batch.labels)
        if not cycle:
            return server, clients, up.bytes, no_answer
        align = partial(_align, x, up, batch.labels, cut_gradient)
        first = x.step % cycle < every  # upload of a period with a fit
        clients, answer = lax.cond(first, align, lambda clients: (clients, no_answer), clients)
        return server, clients, up.bytes, answer

    def keep(server: Server, clients: Client) -> tuple[Server, Client, Array, _Answer]:
        return server, clients, nothing, no_answer

    server, clients, sent, answer = lax.cond(x.step % every == 0, upload, keep, server, clients)
    losses, head_gradient, cut_gradient = auxiliary_losses(x, clients, smashed, batch.labels)
    client_gradient = client_vjp(cut_gradient)[: x.spec.cut]
    clients = client_step(x, clients, client_gradient + head_gradient)
    messages = {SMASHED.column: sent, CUT_GRADIENT.column: answer.bytes}
    reported = {FIT_ERROR: answer.error}
    return Outcome(server, clients, losses, x.has_current_model(), messages, reported)


def _align(
    x: Exchange, up: Uplink, labels: Array, cut_gradient: Array, clients: Client
) -> tuple[Client, _Answer]:
    """Participants whose upload arrived receive the gradient and fit their heads to it."""
    answered, down = send_down(x, clients, cut_gradient, up.kept)
    fitted, errors = fit_auxiliary(x, answered, up.values, labels, down.values, down.kept)
    there = x.spec.slots.to_slots(up.took_part())
    answer = _Answer(jnp.where(there, down.bytes, 0), Reported(errors[:, -1], there))
    return where_rows(there, fitted, clients), answer


def _cycle(spec: RunSpec) -> int:
    """Exchanges from a period with a fit to the next one, at most the largest int32; 0: no fits."""
    cycle = spec.options["align_every"] * spec.aggregate_every * spec.local_steps
    return min(int(cycle), int(np.iinfo(np.int32).max))


def _answers(spec: RunSpec, exchanges: int) -> int:
    """How many of the first exchanges of a run are answered."""
    cycle, every = _cycle(spec), int(spec.options["upload_every"])
    last_upload = (exchanges - 1) // every * every
    return 1 + last_upload // cycle if cycle else 0


def _check(spec: RunSpec) -> None:
    every, exchanges = spec.options["upload_every"], spec.aggregate_every * spec.local_steps
    if _cycle(spec) and every > exchanges:
        fits = f"with --align_every={spec.options['align_every']}"
        raise flag_error(
            "upload_every", every, f"at most {exchanges}, the exchanges of a period, {fits}"
        )


def _without_fits(config: Any) -> str | None:
    return None if config.align_every else "with --align_every=0"


ALIGN_EVERY = Option(
    "align_every",
    1,
    "Periods from one fit of clients' heads to the server's gradients to the next; 0 for no fits.",
    "a whole number from 0 to 1000000",
    lambda value: 0 <= value <= 1_000_000,
)
ALIGN_STEPS = Option(
    "align_steps",
    5,
    "Optimizer steps of a fit.",
    "a whole number from 1 to 10000",
    lambda value: 1 <= value <= 10_000,
    idle=_without_fits,
)

ALGORITHM = Algorithm(
    exchange,
    uses=FEDERATED | PERSONAL | PROXIMAL | CUT | SERVER,
    streams=(
        UPLOADS,
        CUT_GRADIENT._replace(messages=_answers, idle=_without_fits),
        CLIENT_GRADIENT,
        MODEL_UP,
        MODEL_DOWN,
    ),
    options=(AUX, UPLOAD_EVERY, ALIGN_EVERY, ALIGN_STEPS),
    reports=(FIT_ERROR,),
    clock=waiting_for_answers,
    auxiliary=head,
    fit_steps=lambda options: int(options["align_steps"]) if options["align_every"] else 0,
    server_batch=lambda participants: participants,
    check=_check,
)
