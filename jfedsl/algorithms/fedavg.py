"""Federated averaging (arXiv 1602.05629): clients train the whole model, nothing is cut."""

from jfedsl.engine.algorithm import FEDERATED, PERSONAL, PROXIMAL, Algorithm
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward, client_step
from jfedsl.engine.clocks import training_alone
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import output_losses
from jfedsl.engine.state import Client, Server
from jfedsl.engine.streams import CLIENT_GRADIENT, MODEL_DOWN, MODEL_UP


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """A local step of every participant; nothing is sent.

    A participant that holds the model of the period trains, in reach or not.
    """
    clients, batch = draw_batch(x, clients)
    clients, logits, client_vjp = client_forward(x, clients, batch.inputs)
    losses, gradient = output_losses(x, logits, batch.labels)
    clients = client_step(x, clients, client_vjp(gradient))
    return Outcome(server, clients, losses, x.has_current_model(), {})


ALGORITHM = Algorithm(
    exchange,
    uses=FEDERATED | PERSONAL | PROXIMAL,
    streams=(CLIENT_GRADIENT, MODEL_UP, MODEL_DOWN),
    clock=training_alone,
    client_layers=lambda layers, cut: layers,
)
