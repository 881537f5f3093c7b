"""Federated averaging (arXiv 1602.05629): clients train the whole model, nothing is cut.

It is FedSL cut after the last layer: what would pass there, and be answered, never leaves the
client, and the server's part has no weights.
"""

from jax import Array

from jfedsl.algorithms import fedsl
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, RunSpec, State


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """local_steps steps of every participant; models averaged at the end of a period."""
    state, record = fedsl.run_round(spec, data, key, state)
    if record.conditions is not None:
        # Nobody waits between the two passes.
        now = record.conditions
        whole = now.replace(forward=now.forward + now.backward, backward=0 * now.backward)
        record = record.replace(conditions=whole)
    return state, record
