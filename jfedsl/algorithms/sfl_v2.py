"""SplitFed V2 (arXiv 2004.12088): clients compute side by side, the server serves them in turn.

The server's one part steps on client after client, in an order drawn anew for every exchange;
clients' parts are averaged as in FedSL.
"""

from jax import Array

from jfedsl.algorithms import fedsl
from jfedsl.protocol.rounds import RoundRecord
from jfedsl.protocol.server_side import step_in_turn
from jfedsl.protocol.state import Data, Scheme, State


def run_round(scheme: Scheme, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One round of exchanges in which the server steps once for every client."""
    return fedsl.run_round(scheme, data, key, state, serve=step_in_turn)
