"""States as checkpoints have them: the same on any number of devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.engine.state import Scheme, State
from jfedsl.sharding.slots import EVERYWHERE, SPREAD, Placement, put


def lay_out(scheme: Scheme, state: State) -> State:
    """The state with each part where it belongs: clients and memories spread, all else everywhere.

    Compilers would choose by themselves, and differently before and after a round.
    """
    spread, everywhere = scheme.placement.spread, scheme.placement.everywhere
    rows = _spread(scheme)
    return State(
        **{n: (spread if n in rows else everywhere)(part) for n, part in vars(state).items()}
    )


def _spread(scheme: Scheme) -> list[str]:
    """Parts of a state that have a row for each place, or each client."""
    memory = ["memory"] if scheme.remembers else []
    return ["clients", *memory, *(["server"] if scheme.server_copies else [])]


def portable(scheme: Scheme) -> Callable[[State], State]:
    """Makes states have rows of participants, in their order, before those of places left over."""
    order = _order(scheme.placement)
    if np.array_equal(order, np.arange(order.size)):
        return lambda state: state
    moved = jax.jit(lambda tree: scheme.placement.spread(jax.tree.map(lambda x: x[order], tree)))
    names = [name for name in _spread(scheme) if name != "memory"]
    return lambda state: state.replace(**{name: moved(getattr(state, name)) for name in names})


def _order(placement: Placement) -> np.ndarray:
    return np.concatenate([placement.place, np.flatnonzero(~placement.needed)])


def settle(scheme: Scheme, state: State) -> State:
    """What `portable` made, maybe of other devices, as arrays of the host: on the devices here."""
    placement, parts = scheme.placement, vars(state).copy()

    def at_places(x: np.ndarray) -> np.ndarray:
        return x[placement.participant]

    def all_clients(x: np.ndarray) -> np.ndarray:
        rows = np.arange(placement.evenly(scheme.clients))
        return x[np.minimum(rows, scheme.clients - 1)]

    spread = _spread(scheme)
    for name in spread:
        parts[name] = jax.tree.map(all_clients if name == "memory" else at_places, parts[name])
    laid = {
        name: put(placement.mesh, part, SPREAD if name in spread else EVERYWHERE)
        for name, part in parts.items()
    }
    # In buffers of its own: rounds donate them.
    return State(**jax.tree.map(jnp.copy, laid))
