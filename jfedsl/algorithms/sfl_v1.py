"""SplitFed V1 (arXiv 2004.12088): every client has a copy of the server's part to itself.

Both halves are averaged at the end of a period, by the same weights. A copy belongs to a slot of a
period's participants; its optimizer's moments follow --client_optimizer_state.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.algorithms import fedsl
from jfedsl.data.partition import Partition
from jfedsl.engine.algorithm import PERSONAL, PROXIMAL, SPLIT, Algorithm
from jfedsl.engine.averaging import merging_weights
from jfedsl.engine.server_step import step_copies
from jfedsl.engine.state import RunSpec, Server, State, copies
from jfedsl.sharding.slots import where_rows


def server_of(spec: RunSpec, partition: Partition, state: State) -> Server:
    """The mean of the copies, with the mean of their moments."""
    share = spec.slots.weights(merging_weights(spec, partition, state)[0])
    zeros = jax.tree.map(jnp.zeros_like, state.server)
    present = where_rows(share > 0, state.server, zeros)  # padding slots may hold anything

    def mean(x: Array) -> Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.tensordot(share, x, 1)
        # Step counters: their mean as `averaging` has it, of differences that float32 holds.
        most = x.max(0)
        lacking = jnp.tensordot(share, (x - most).astype(jnp.float32), 1)
        return most + jnp.rint(lacking).astype(x.dtype)

    merged: Server = jax.tree.map(mean, present)
    return merged


def _init_server(spec: RunSpec, server: Server) -> Server:
    all_copies: Server = spec.slots.shard(copies(server, spec.slots.num_slots))
    return all_copies


def _average(spec: RunSpec, partition: Partition, state: State) -> State:
    """The state with the mean of the copies in every slot."""
    merged, optimizer = server_of(spec, partition, state), state.server.optimizer
    count = spec.slots.num_slots
    if spec.client_optimizer_state == "reset":
        optimizer = copies(spec.server_optimizer.init(merged.params), count)
    if spec.client_optimizer_state == "average":
        optimizer = copies(merged.optimizer, count)
    shared = copies(merged, count).replace(optimizer=optimizer)
    return state.replace(server=spec.slots.shard(shared))


ALGORITHM = Algorithm(
    partial(fedsl.exchange, server_step=step_copies),
    uses=SPLIT | PERSONAL | PROXIMAL,
    init_server=_init_server,
    end_period=_average,
    server_of=server_of,
    per_slot=("clients", "server"),
)
