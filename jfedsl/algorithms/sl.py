"""Split learning (arXiv 1812.00564): clients take turns, and hand the client-side weights on.

In a round, which is a period too, every participant has a turn of local_steps exchanges, in random
order. A turn is a FedSL period of one participant: it receives the weights as the one before left
them, exchanges alone, with the band to itself, and sends them on by way of the aggregator.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.keys import Purpose, fold
from jfedsl.protocol.aggregation import draw_period, hold_model
from jfedsl.protocol.placement import placed
from jfedsl.protocol.rounds import RoundRecord
from jfedsl.protocol.state import Data, Scheme, State


def run_round(scheme: Scheme, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One turn of every participant.

    Args:
      scheme: of the run, with aggregate_every 1.
      data: of the run.
      key: run key.
      state: before the round.
    """
    number, state = state.round, draw_period(scheme, key, state)
    alone = scheme._replace(participants=1, group_sizes=(1,), placement=placed((1,)))
    nobody = jnp.zeros(1, bool)

    def turn(carry: State, client: Array) -> tuple[State, RoundRecord]:
        everyone, whose = carry.clients, jnp.argmax(carry.participants == client)
        own = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, whose, 1), everyone)
        before = carry.replace(clients=own, participants=client[None], holding=nobody)
        after, record = fedsl.run_round(
            alone, data, key, before, draw=lambda scheme, key, state: state
        )
        clients = jax.tree.map(
            lambda x, row: lax.dynamic_update_slice_in_dim(x, row, whose, 0),
            everyone, after.clients,
        )  # fmt: skip
        kept = carry.replace(server=after.server, aggregator=after.aggregator, clients=clients)
        return kept, record

    order = jax.random.permutation(fold(key, Purpose.TURNS, number), state.participants)
    state, records = lax.scan(turn, state, order)
    # All hold what the last one left, for evaluation; it is counted as sent at their next turns.
    state = state.replace(round=number + 1, holding=jnp.ones_like(state.holding))
    return state.replace(clients=hold_model(scheme, state)), _round_of(records)


_MEANS = ("train_loss", "pruned_fraction", "kept_fractions", "mask_overlap")


def _round_of(turns: RoundRecord) -> RoundRecord:
    """The records of the turns `[K, ...]` of one participant each as one of a round."""
    means = {name: jnp.mean(getattr(turns, name), axis=0) for name in _MEANS}
    # Axes [K, ..., 1] become [..., K].
    own = jax.tree.map(
        lambda x: jnp.moveaxis(x[..., 0], 0, -1), turns.replace(**dict.fromkeys(_MEANS))
    )
    return own.replace(**means)
