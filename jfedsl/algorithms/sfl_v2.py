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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.algorithms.turns import one_by_one
from jfedsl.engine import clocks
from jfedsl.engine import round as engine_round
from jfedsl.engine.algorithm import PERSONAL, PROXIMAL, SPLIT, Algorithm, Option
from jfedsl.engine.exchange import Availability, Exchange, ExchangeRecord, Outcome
from jfedsl.engine.exchanges import exchanges
from jfedsl.engine.participants import of_some
from jfedsl.engine.rounds import OF_A_ROUND, RoundRecord
from jfedsl.engine.server_step import joint_step, serving_order, step_in_turn
from jfedsl.engine.state import Client, Data, RunSpec, Server, State
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import ClientForward
from jfedsl.wireless.cost import Cost


def exchange(x: Exchange, server: Server, clients: Client) -> Outcome:
    """As in FedSL, but the server steps on one activation after another.

    Where it serves client by client there is only one activation in an exchange.
    """
    step = joint_step if client_by_client(x.spec) else step_in_turn
    return fedsl.exchange(x, server, clients, server_step=step)


def client_by_client(settings: RunSpec | Any) -> bool:
    """Whether all exchanges of a round of one client come before those of the next one.

    Args:
      settings: the run, or its config.
    """
    if settings.local_steps == 1:
        return False  # both orders are the same
    options = settings.options if isinstance(settings, RunSpec) else vars(settings)
    return bool(options["server_order"] == "client")


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """One round of exchanges in which the server steps once for every client and exchange.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      state: before the round.
    """
    run = run_client_by_client if client_by_client(spec) else engine_round.run_round
    return run(spec, data, key, state)


def run_client_by_client(
    spec: RunSpec, data: Data, key: Array, state: State
) -> tuple[State, RoundRecord]:
    """One round in which the server serves all exchanges of one client before those of the next.

    The record has the participants in the order of service. See `run_round` for the arguments.
    """
    # As of the first exchange, so that with local_steps=1 both orders are the same to the bit.
    order = serving_order(spec, fold(key, Purpose.EXCHANGE, state.round, 0))
    state, record = engine_round.run_round(
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
    """All exchanges of the first client in `order[K]`, then those of the next one."""
    of_one = of_some(spec, 1)
    groups = jnp.asarray(np.repeat(np.arange(len(forwards)), spec.group_sizes))

    def turn(state: State, position: Array) -> tuple[State, ExchangeRecord]:
        there = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, position, 1), availability)

        def run(forward: ClientForward, state: State) -> tuple[State, ExchangeRecord]:
            return exchanges(of_one, (forward,), data, key, state, there, present=_present)

        return lax.switch(groups[position], [partial(run, forward) for forward in forwards], state)

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
    by_participant = record.replace(**dict.fromkeys(OF_A_ROUND))
    return jax.tree.map(lambda x: x[..., order], by_participant).replace(**common)


def _clock(spec: RunSpec, record: RoundRecord) -> Cost:
    clock = clocks.client_by_client if client_by_client(spec) else clocks.side_by_side
    return clock(spec, record)


SERVER_ORDER = Option(
    "server_order",
    "client",
    "Order of the server's steps with sfl_v2: all of a round on one client before the next one, as "
    "in the authors' code, or on client after client in every exchange.",
    "client or exchange",
    lambda value: value in ("client", "exchange"),
    idle=lambda config: "with --local_steps=1" if config.local_steps == 1 else None,
    before="exchange",
)

ALGORITHM = Algorithm(
    exchange,
    uses=SPLIT | PERSONAL | PROXIMAL,
    options=(SERVER_ORDER,),
    clock=_clock,
    run_round=run_round,
    one_at_a_time=lambda c: ("algorithm", "server_order") if client_by_client(c) else (),
)
