"""SplitFed V1 (arXiv 2004.12088): every client has a copy of the server's part to itself.

Both halves are averaged at the end of a period, by the same weights. A copy belongs to a place
among the participants of a period; its optimizer's moments follow --client_optimizer_state.
"""

from functools import partial

from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.data.partition import Partition
from jfedsl.engine.averaging import serving
from jfedsl.engine.exchanges import exchanges
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.server_step import step_copies
from jfedsl.engine.state import Data, RunSpec, State, copies


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One round of exchanges with the copies; at the end of a period these are averaged."""
    ends = (state.round + 1) % spec.aggregate_every == 0
    state, record = fedsl.run_round(
        spec, data, key, state, exchange_all=partial(exchanges, server_step=step_copies)
    )
    average = partial(_average, spec, data.partition)
    return lax.cond(ends, average, lambda state: state, state), record


def _average(spec: RunSpec, partition: Partition, state: State) -> State:
    merged, optimizer = serving(spec, partition, state), state.server.optimizer
    places = spec.slots.num_slots
    if spec.client_optimizer_state == "reset":
        optimizer = copies(spec.server_optimizer.init(merged.params), places)
    if spec.client_optimizer_state == "average":
        optimizer = copies(merged.optimizer, places)
    shared = copies(merged, places).replace(optimizer=optimizer)
    return state.replace(server=spec.slots.shard(shared))
