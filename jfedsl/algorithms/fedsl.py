"""Federated split learning with pruning, compressed activations and quantized gradients.

With all compression off this is parallel split federated learning: one server-side model, updated
at every exchange, and client-side models averaged every I rounds. The scheme follows the abstract
of arXiv 2412.06414.
"""

from jfedsl.engine.algorithm import BOUND, PERSONAL, PROXIMAL, SPLIT, Algorithm
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import ServerStep, joint_step
from jfedsl.engine.state import Client, Server
from jfedsl.engine.streams import CUT_GRADIENT, SMASHED
from jfedsl.engine.transmit import send_down, send_up


def exchange(
    x: Exchange, server: Server, clients: Client, server_step: ServerStep = joint_step
) -> Outcome:
    """Participants compute and send, the server steps and answers, participants step.

    Pruning is in `client_forward`, which computes with the weights that each client keeps, and in
    `client_step`, which steps on no others. What compresses a message is in `send_up` and
    `send_down`; `client_step` quantizes the gradient of the weights.
    """
    clients, batch = draw_batch(x, clients)
    clients, smashed, client_vjp = client_forward(x, clients, batch.inputs)
    clients, up = send_up(x, clients, smashed, batch.lengths)
    server, losses, cut_gradient = server_step(x, server, up, batch.labels)
    clients, down = send_down(x, clients, cut_gradient, up.kept)
    clients = client_step(x, clients, client_vjp(up.vjp(down.values)))
    sent = {SMASHED.column: up.bytes, CUT_GRADIENT.column: down.bytes}
    return Outcome(server, clients, losses, up.took_part(), sent)


ALGORITHM = Algorithm(
    exchange,
    uses=SPLIT | PERSONAL | PROXIMAL | BOUND,
    compress_by_default=True,
    cuts_by_client=True,
    with_quorum="semi_async",
    server_batch=lambda participants: participants,
)
