"""Training algorithms, each a short file of pure functions that reads as the algorithm."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from jfedsl.algorithms import centralized, fedavg, fedsl, sfl_v1, sfl_v2, sl
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, RunSpec, State


class Algorithm(NamedTuple):
    """One training algorithm.

    Attributes:
      run_round: one round of it.
      sides: who has layers: both clients and server, clients, or the server.
      server_copies: whether each participant has its own copy of the server's part.
      in_turns: whether participants exchange one after another, not side by side.
      ordered: whether `--server_order` says in which order the server serves participants.
      joint: whether the server takes the activations of all participants for one batch.
    """

    run_round: Callable[[RunSpec, Data, Array, State], tuple[State, RoundRecord]]
    sides: str = "both"
    server_copies: bool = False
    in_turns: bool = False
    ordered: bool = False
    joint: bool = False


ALGORITHMS = {
    "fedsl": Algorithm(fedsl.run_round, joint=True),
    "sfl_v1": Algorithm(sfl_v1.run_round, server_copies=True),
    "sfl_v2": Algorithm(sfl_v2.run_round, ordered=True),
    "sl": Algorithm(sl.run_round, in_turns=True),
    "fedavg": Algorithm(fedavg.run_round, sides="clients"),
    "centralized": Algorithm(centralized.run_round, sides="server"),
}
