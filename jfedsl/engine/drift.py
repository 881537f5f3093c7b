"""How long the parts of clients drift apart, as the convergence bound has it."""

from typing import NamedTuple

import numpy as np

from jfedsl.engine.state import RunSpec


class Drift(NamedTuple):
    """How long the parts of clients, and copies of the server's, drift apart.

    Attributes:
      rounds: after so many the parts of all clients are averaged.
      edge_rounds: after so many those of the clients of an edge server are.
      edge_weight: the largest weight of a client in the average of its edge; 1 without edges.
      server_drifts: whether there are copies of the server's part, averaged after `rounds`.
      beyond: what of it the bound's theorem does not cover, as text.
    """

    rounds: int
    edge_rounds: int
    edge_weight: float = 1.0
    server_drifts: bool = False
    beyond: tuple[str, ...] = ()


def of_periods(spec: RunSpec, sizes: np.ndarray) -> Drift:
    """Clients drift apart in a period, and there is one server.

    Args:
      spec: functions and static numbers of the run.
      sizes: number of examples of each client, int `[C]`.
    """
    del sizes
    return Drift(spec.aggregate_every, spec.aggregate_every)
