"""Which parts of a state hold numbers that are finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.engine.state import RunSpec, State


def finite(spec: RunSpec, state: State) -> tuple[Array, dict[str, Array]]:
    """Which participants have finite numbers only, `[K]`, and whether server and aggregator."""

    def rows(x: Array) -> Array:
        return jnp.all(jnp.isfinite(x).reshape(len(x), -1), axis=1)

    def all_of(tree: Any) -> Array:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))

    clients = jnp.all(jnp.stack([rows(x) for x in jax.tree.leaves(state.clients)]), axis=0)
    parts = {"the server": state.server, "the aggregator": state.aggregator}
    return spec.slots.to_participants(clients), {
        name: all_of(tree) for name, tree in parts.items() if jax.tree.leaves(tree)
    }


def first_not_finite(
    clients: np.ndarray, others: dict[str, np.ndarray], participants: np.ndarray
) -> str | None:
    """The first part of a state with a number that is not finite.

    Args:
      clients: whether those of each participant are, bool `[K]`.
      others: whether those of other parts are, by name.
      participants: numbers of the clients, int `[K]`.
    """
    if not clients.all():
        return f"client {participants[np.argmin(clients)]}"
    return next((name for name, finite_ in others.items() if not finite_), None)
