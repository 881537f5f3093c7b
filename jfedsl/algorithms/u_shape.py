"""U-shaped split learning (arXiv 1812.00564): labels never leave the client.

Clients hold the first layers of the model and, behind the server's, its last --tail ones. The
activation goes up without labels; the server's layers send what they make of it down; the client
computes its loss, steps on its tail, and sends the gradient up; the server steps, and sends the
gradient at the cut down. Both parts of clients are averaged at the end of a period. The definition
is ours, after that work. With all compression off, one client, or plain SGD with equal weights and
one local step a period, takes the step of FedSL and of the uncut model.
"""

from jfedsl.engine.algorithm import PERSONAL, PROXIMAL, SPLIT, Algorithm, Option
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import server_forward
from jfedsl.engine.state import Client, Server
from jfedsl.engine.streams import (
    CLIENT_GRADIENT,
    CUT_GRADIENT,
    DOWN,
    MODEL_DOWN,
    MODEL_UP,
    SMASHED,
    UP,
    Stream,
)
from jfedsl.engine.tail import tail_losses
from jfedsl.engine.transmit import send_activation_down, send_down, send_gradient_up, send_up

UNLABELLED = SMASHED._replace(labels=False)
TAIL_INPUT = Stream("tail_input", DOWN, of_batch=True, stage=16, at_tail=True)
TAIL_GRADIENT = Stream("tail_gradient", UP, of_batch=True, stage=17, at_tail=True)


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """Up to the server and down to the tail, and the gradients back the same way."""
    clients, batch = draw_batch(x, clients)
    clients, smashed, client_vjp = client_forward(x, clients, batch.inputs)
    clients, up = send_up(x, clients, smashed, batch.lengths, UNLABELLED)
    outputs, server_backward = server_forward(x, server, up)
    clients, down = send_activation_down(x, clients, outputs, up, TAIL_INPUT)

    clients, losses, tail_gradient, gradient = tail_losses(x, clients, down.values, batch)

    clients, returned = send_gradient_up(x, clients, gradient, down, up, TAIL_GRADIENT)
    # Back by the way that activations came: each `vjp` of a message is that of its compressors.
    outputs_gradient = returned.vjp(returned.values)
    server, cut_gradient = server_backward(outputs_gradient)
    clients, answer = send_down(x, clients, cut_gradient, up.kept)
    smashed_gradient = up.vjp(answer.values)
    first_gradient = client_vjp(smashed_gradient)[: x.spec.cut]
    clients = client_step(x, clients, first_gradient + tail_gradient)
    sent = {
        UNLABELLED.column: up.bytes,
        TAIL_INPUT.column: down.bytes,
        TAIL_GRADIENT.column: returned.bytes,
        CUT_GRADIENT.column: answer.bytes,
    }
    return Outcome(server, clients, losses, up.took_part(), sent)


TAIL = Option(
    "tail",
    1,
    "Last layers of the model that clients hold, behind the server's.",
    "a whole number from 1 to 1000",
    lambda value: 1 <= value <= 1000,
)

ALGORITHM = Algorithm(
    exchange,
    uses=SPLIT | PERSONAL | PROXIMAL,
    streams=(
        UNLABELLED,
        TAIL_INPUT,
        TAIL_GRADIENT,
        CUT_GRADIENT,
        CLIENT_GRADIENT,
        MODEL_UP,
        MODEL_DOWN,
    ),
    options=(TAIL,),
    tail=lambda options: int(options["tail"]),
    server_batch=lambda participants: participants,
)
