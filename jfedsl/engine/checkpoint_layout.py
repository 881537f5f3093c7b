"""States as checkpoints have them: the same on any number of devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.engine.state import RunSpec, State
from jfedsl.sharding.slots import REPLICATED, SHARDED, SlotLayout, put


def lay_out(spec: RunSpec, state: State) -> State:
    """The state with each part where it belongs: clients and memories spread, all else everywhere.

    Compilers would choose by themselves, and differently before and after a round.
    """
    spread, everywhere = spec.slots.shard, spec.slots.replicate
    rows = _spread(spec)
    return State(
        **{n: (spread if n in rows else everywhere)(part) for n, part in vars(state).items()}
    )


def _spread(spec: RunSpec) -> list[str]:
    """Parts of a state that have a row for each slot, or each client."""
    memory = ["memory"] if spec.memory_on_device else []
    return [*memory, *spec.algorithm.per_slot]


def to_checkpoint_layout(spec: RunSpec) -> Callable[[State], State]:
    """Makes states have rows of participants, in their order, before those of padding slots."""
    order = _order(spec.slots)
    if np.array_equal(order, np.arange(order.size)):
        return lambda state: state
    moved = jax.jit(lambda tree: spec.slots.shard(jax.tree.map(lambda x: x[order], tree)))
    names = [name for name in _spread(spec) if name != "memory"]
    return lambda state: state.replace(**{name: moved(getattr(state, name)) for name in names})


def _order(slots: SlotLayout) -> np.ndarray:
    return np.concatenate([slots.slot, np.flatnonzero(~slots.is_real)])


def from_checkpoint_layout(spec: RunSpec, state: State) -> State:
    """Lays a checkpoint's state, as arrays of the host, out on the devices of this run."""
    slots, parts = spec.slots, vars(state).copy()

    def at_places(x: np.ndarray) -> np.ndarray:
        return x[slots.participant]

    def all_clients(x: np.ndarray) -> np.ndarray:
        rows = np.arange(slots.padded_rows(spec.clients))
        return x[np.minimum(rows, spec.clients - 1)]

    spread = _spread(spec)
    for name in spread:
        parts[name] = jax.tree.map(all_clients if name == "memory" else at_places, parts[name])
    laid = {
        name: put(slots.mesh, part, SHARDED if name in spread else REPLICATED)
        for name, part in parts.items()
    }
    # In buffers of its own: rounds donate them.
    return State(**jax.tree.map(jnp.copy, laid))
