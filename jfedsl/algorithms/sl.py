"""Split learning (arXiv 1812.00564): clients take turns, and hand the client-side weights on.

In a round, which is a period too, every participant has a turn of local_steps exchanges, in random
order. A turn is a FedSL period of one participant: it receives the weights as the one before left
them, exchanges alone, with the band to itself, and sends them on by way of the aggregator.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.algorithms import fedsl
from jfedsl.algorithms.turns import one_by_one
from jfedsl.engine import round as engine_round
from jfedsl.engine.algorithm import ALLOCATION, DEADLINE, OUTAGE, PERIODS, SPLIT, Algorithm
from jfedsl.engine.clocks import taking_turns
from jfedsl.engine.participants import of_some
from jfedsl.engine.period import draw_period, hold_model
from jfedsl.engine.rounds import OF_A_ROUND, RoundRecord
from jfedsl.engine.state import Data, RunSpec, State
from jfedsl.keys import Purpose, fold


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One turn of every participant.

    Args:
      spec: functions and static numbers of the run, with aggregate_every 1.
      data: training data of all clients.
      key: run key.
      state: before the round.
    """
    number, state = state.round, draw_period(spec, key, state)
    of_one = of_some(spec, 1)

    def turn(state: State, position: Array) -> tuple[State, RoundRecord]:
        del position
        # The weights have yet to be relayed to it.
        before = state.replace(has_current_model=jnp.zeros_like(state.has_current_model))
        return engine_round.run_round(
            of_one, data, key, before, draw=lambda spec, key, state: state
        )

    order = jax.random.permutation(fold(key, Purpose.TURNS, number), spec.participants)
    state, records = one_by_one(turn, order, state)
    # All hold what the last one left, for evaluation; it is counted as sent at their next turns.
    state = state.replace(
        round=number + 1, has_current_model=jnp.ones_like(state.has_current_model)
    )
    return state.replace(clients=hold_model(spec, state)), _round_of(records)


def _round_of(turns: RoundRecord) -> RoundRecord:
    """The records of the turns `[K, ...]` of one participant each as one of a round."""
    means = {
        name: jax.tree.map(partial(jnp.mean, axis=0), getattr(turns, name)) for name in OF_A_ROUND
    }
    # Axes [K, ..., 1] become [..., K].
    by_participant = jax.tree.map(
        lambda x: jnp.moveaxis(x[..., 0], 0, -1), turns.replace(**dict.fromkeys(OF_A_ROUND))
    )
    return by_participant.replace(**means)


ALGORITHM = Algorithm(
    fedsl.exchange,
    # Every round is a period; a participant has the band to itself; none can be left out.
    uses=SPLIT - PERIODS - ALLOCATION - OUTAGE - DEADLINE,
    clock=taking_turns,
    run_round=run_round,
    one_at_a_time=lambda config: ("algorithm",),
    equal_shapes=True,
)
