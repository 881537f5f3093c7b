"""Participants one after another: what split learning and SplitFed V2 have in common."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax

from jfedsl.engine.state import State


def one_by_one(
    turn: Callable[[State, Array], tuple[State, Any]], order: Array, state: State
) -> tuple[State, Any]:
    """Gives every participant a turn.

    Each has the server and the aggregator as the one before left them, and its own client.

    Args:
      turn: `(state, position) -> (state, record)`, of a state whose only participant is the one at
        that position.
      order: in which turns come: positions among the participants, int32 `[K]`.
      state: before the first turn.

    Returns:
      The state after the last turn, and the records in the order of the turns, `[K, ...]`.
    """

    def one(carry: State, position: Array) -> tuple[State, Any]:
        def row(tree: Any) -> Any:
            return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, position, 1), tree)

        before = carry.replace(
            clients=row(carry.clients),
            participants=row(carry.participants),
            has_current_model=row(carry.has_current_model),
        )
        after, record = turn(before, position)
        clients = jax.tree.map(
            lambda x, row_after: lax.dynamic_update_slice_in_dim(x, row_after, position, 0),
            carry.clients, after.clients,
        )  # fmt: skip
        kept = carry.replace(server=after.server, aggregator=after.aggregator, clients=clients)
        return kept, record

    return lax.scan(one, state, order)
