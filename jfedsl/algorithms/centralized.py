"""Centralized training: all data in one place, one model.

The server has all layers and one client that only holds data. A round is
participants * local_steps steps.
"""

import numpy as np

from jfedsl.data.partition import Shares
from jfedsl.engine.algorithm import SERVER, Algorithm, Population
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import Client, Server
from jfedsl.engine.transmit import at_hand


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """One step on one mini-batch; nothing is sent."""
    clients, batch = draw_batch(x, clients)
    server, losses, _ = joint_step(x, server, at_hand(x, batch.inputs), batch.labels)
    return Outcome(server, clients, losses, x.has_current_model(), {})


def _pooled(shares: Shares, population: Population) -> tuple[Shares, Population]:
    """The union of the clients' examples, in their order, with the steps of all participants."""
    steps = population.local_steps * population.participants
    return [np.concatenate(shares)], Population(1, 1, steps)


ALGORITHM = Algorithm(
    exchange,
    uses=SERVER,
    streams=(),
    one_at_a_time=lambda config: ("algorithm",),
    client_layers=lambda layers, cut: 0,
    population=_pooled,
)
