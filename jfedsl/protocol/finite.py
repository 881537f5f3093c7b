"""Which parts of a state hold numbers that are finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.protocol.state import Scheme, State


def finite(scheme: Scheme, state: State) -> tuple[Array, dict[str, Array]]:
    """Which participants have finite numbers only, `[K]`, and whether server and aggregator."""

    def rows(x: Array) -> Array:
        return jnp.all(jnp.isfinite(x).reshape(len(x), -1), axis=1)

    def all_of(tree: Any) -> Array:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))

    clients = jnp.all(jnp.stack([rows(x) for x in jax.tree.leaves(state.clients)]), axis=0)
    parts = {"the server": state.server, "the aggregator": state.aggregator}
    return scheme.placement.to_participants(clients), {
        name: all_of(tree) for name, tree in parts.items() if jax.tree.leaves(tree)
    }
