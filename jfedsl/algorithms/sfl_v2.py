"""SplitFed V2 (arXiv 2004.12088): clients share one server part, which serves them in turn.

Clients' parts are trained from the model of the period and averaged as in FedSL. The order in which
the server steps is --server_order:

    client    (as in the authors' code) it serves all exchanges of a round of one client before it
              serves the next client, in an order drawn anew for every round;
    exchange  it steps on client after client in every exchange, in an order drawn anew for each.

With local_steps=1 both are the same.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.algorithms.turns import alone, one_by_one
from jfedsl.engine.exchange import Availability, ExchangeRecord
from jfedsl.engine.exchanges import exchanges
from jfedsl.engine.rounds import OF_A_ROUND, RoundRecord
from jfedsl.engine.server_step import serving_order, step_in_turn
from jfedsl.engine.state import Data, RunSpec, State
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import ClientForward


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One round of exchanges in which the server steps once for every client and exchange.

    Where it serves client after client, the record has the participants in the order of service.

    Args:
      spec: of the run.
      data: of the run.
      key: run key.
      state: before the round.
    """
    if not spec.one_by_one:
        in_turn = partial(exchanges, server_step=step_in_turn)
        return fedsl.run_round(spec, data, key, state, exchange_all=in_turn)
    # As of the first exchange, so that with local_steps=1 both orders are the same to the bit.
    order = serving_order(spec, fold(key, Purpose.EXCHANGE, state.round, 0))
    state, record = fedsl.run_round(
        spec, data, key, state, exchange_all=partial(_client_by_client, order)
    )
    return state, _as_served(record, order)


def _client_by_client(
    order: Array,
    spec: RunSpec,
    forwards: Sequence[ClientForward],
    data: Data,
    key: Array,
    state: State,
    availability: Availability | None,
) -> tuple[State, ExchangeRecord]:
    """All exchanges of the first client in `order[K]`, then those of the second. See `Exchanges`.

    A server that has one client's activation only takes FedSL's joint step on it.
    """
    own = alone(spec)
    groups = jnp.asarray(np.repeat(np.arange(len(forwards)), spec.group_sizes))

    def turn(state: State, place: Array) -> tuple[State, ExchangeRecord]:
        there = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, place, 1), availability)

        def run(form: ClientForward, state: State) -> tuple[State, ExchangeRecord]:
            return exchanges(own, (form,), data, key, state, there, present=_present)

        return lax.switch(groups[place], [partial(run, form) for form in forwards], state)

    state, records = one_by_one(turn, order, state)
    # Axes [K, S, 1] in the order of service become [S, K] in that of the participants.
    back = jnp.argsort(order)
    return state, jax.tree.map(lambda x: x[back, :, 0].T, records)


def _present(availability: Availability | None, step: Array) -> Availability | None:
    """A client's availability in an exchange of its turn.

    The first activation shares the band with everyone's. The others have it to themselves, and who
    was out of reach then is passed over.
    """
    if availability is None:
        return None
    first, now = step == 0, availability.conditions
    rate = jnp.where(first, now.up_rate, now.lone_up_rate)
    has_current_model = availability.has_current_model & (first | now.reachable)
    return Availability(has_current_model, now.replace(up_rate=rate))


def _as_served(record: RoundRecord, order: Array) -> RoundRecord:
    """A round's record with its participants, the last axis, in another order."""
    common = {name: getattr(record, name) for name in OF_A_ROUND}
    own = record.replace(**dict.fromkeys(OF_A_ROUND))
    return jax.tree.map(lambda x: x[..., order], own).replace(**common)
