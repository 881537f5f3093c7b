"""Split federated learning whose server does not wait for all (semi-asynchronous).

The server steps as soon as --quorum messages have arrived, activations or client parts, and answers
these; the other participants go on computing and sending. It exchanges with those whose activations
it takes, as in `fedsl`. After the exchanges of a period a participant sends its part of the model:
that is averaged with the others of the same step, and the participant receives the model anew. A
part that other averages came before may weigh less (--staleness). A participant that has missed
--max_staleness steps in a row is waited for.

Which messages a step takes follows from the simulated network: from the rates of each round, the
FLOPs of clients' layers, and the expected sizes of their messages. So the order of events does not
depend on what is learnt, and one compiled program runs them. A round is local_steps steps of the
server, and one more at the end of a period; learning rates follow the number of the step. With
--quorum of all participants a run is one of `fedsl`.

The definition is ours, after the abstract of SAFSL (IEEE Transactions on Wireless Communications
24(6)) and the buffered averages of FedBuff (arXiv 2106.06639).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.engine import arrivals, staleness
from jfedsl.engine import round as engine_round
from jfedsl.engine.algorithm import DEADLINE, OUTAGE, SPLIT, Algorithm, Option
from jfedsl.engine.arrival_records import StepRecord, round_record
from jfedsl.engine.clocks import side_by_side
from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.exchange import Availability, Reported
from jfedsl.engine.exchanges import exchange_at, one_exchange
from jfedsl.engine.partial_average import Returned, average_returned
from jfedsl.engine.participants import of_some
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, RunSpec, State, weights
from jfedsl.engine.streams import MODEL_DOWN, MODEL_UP, SPLIT_STREAMS
from jfedsl.errors import UserError, flag_error
from jfedsl.wireless.arrival_cost import cost_of_steps
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.radio import Conditions
from jfedsl.wireless.schedule import Rules, Taken, over_steps, spread

MISSED, AGE = "missed_steps", "staleness"  # columns of metrics.csv


def server_step(
    spec: RunSpec, data: Data, key: Array, conditions: Conditions, state: State, number: Array
) -> tuple[State, StepRecord]:
    """The server takes the next messages, steps on the activations, and averages the rest.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      conditions: of the round.
      state: before the step.
      number: of the step in its round.
    """
    rules = _rules(spec)
    state, down = arrivals.send_models(spec, key, state)
    state = arrivals.with_trips(rules, conditions, state)
    taken, some = arrivals.take(rules, state)
    of_step = of_some(spec, rules.quorum)
    some, losses, sent = _exchange(of_step, data, key, conditions, taken, number, some)
    some, up, age, overlap = _average(of_step, data, key, taken, state, some)
    after, clock = arrivals.put_back(spec, state, taken, some)
    rows = losses, sent, taken.exchanging, age, overlap, up
    losses, sent, exchanged, age, overlap, up = spread(taken, rows, spec.participants)
    sent |= {MODEL_UP.column: up, MODEL_DOWN.column: down}
    return after, StepRecord(losses, sent, exchanged, age, overlap, clock)


def quorum_of(spec: RunSpec) -> int:
    """How many messages a step of the server takes."""
    return int(spec.options["quorum"] or spec.participants)


def _rules(spec: RunSpec) -> Rules:
    most_missed = spec.options["max_staleness"]
    return Rules(quorum_of(spec), most_missed, spec.local_steps, spec.aggregate_every)


def _as_fedsl(spec: RunSpec) -> RunSpec:
    """The run as its exchanges have it, which report nothing by themselves."""
    return spec._replace(algorithm=spec.algorithm._replace(reports=()))


def _exchange(
    spec: RunSpec, data: Data, key: Array, conditions: Conditions, taken: Taken, number: Array,
    some: State,
) -> tuple[State, Array, dict[str, Array]]:  # fmt: skip
    """An exchange of `fedsl` of those whose activations have arrived, if there are any."""
    there = Availability(taken.exchanging, arrivals.rows_at(taken.positions, conditions))
    spec = _as_fedsl(spec)

    def exchange(some: State) -> tuple[State, Array, dict[str, Array]]:
        share, at = weights(spec, data.partition, some.participants), (some.round, number)
        numbers, (row,) = some.clients.number, spec.pruner.width_configs
        forwards = [spec.pruner.forwards[i] for i in row]
        x = exchange_at(spec, forwards, data, key, at, numbers, share, there)
        server, clients, record = one_exchange(x, some.server, some.clients)
        return some.replace(server=server, clients=clients), record.losses, record.sent

    shapes = jax.eval_shape(exchange, some)[1:]

    def rest(some: State) -> tuple[State, Array, dict[str, Array]]:
        return some, *jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return lax.cond(jnp.any(taken.exchanging), exchange, rest, some)


def _average(
    spec: RunSpec, data: Data, key: Array, taken: Taken, state: State, some: State
) -> tuple[State, Array, Array, Array]:
    """The average of the parts that have arrived, with bytes, ages and overlaps `[n]` of masks."""
    progress, which = state.algorithm_state, ~taken.exchanging
    age = progress.averages - progress.received_at[taken.positions]
    received = arrivals.rows_at(taken.positions, progress.received)
    average = partial(
        average_returned, spec, key, data.partition,
        staleness.parse(spec.options["staleness"]), Returned(which, received, age),
    )  # fmt: skip
    nothing = jnp.zeros(which.shape, jnp.int32), jnp.zeros(which.shape, jnp.float32)
    some, up, overlap = lax.cond(jnp.any(which), average, lambda some: (some, *nothing), some)
    return some, up, jnp.where(which, age, 0), overlap


def run_round(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """local_steps steps of the server, and one more at the end of a period.

    With a quorum of all it is a round of `fedsl`.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      state: before the round.
    """
    if quorum_of(spec) < spec.participants:
        return run_steps(spec, data, key, state)
    state, record = engine_round.run_round(_as_fedsl(spec), data, key, state)
    nobody = Reported(jnp.zeros_like(record.losses), jnp.zeros_like(record.took_part))
    return state, record.replace(reported={MISSED: nobody, AGE: nobody})


def run_steps(spec: RunSpec, data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
    """A round whose server takes --quorum messages in a step.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      state: before the round.
    """
    number = state.round
    conditions = round_conditions(spec, key, number, state.participants, state.clients)
    step = partial(server_step, spec, data, key, conditions)
    state = arrivals.with_rates(conditions, state)
    state, records = over_steps(_rules(spec), number, step, state)
    record = round_record(spec, data, state, conditions, records)
    return state.replace(round=number + 1), record.replace(reported=_reported(records))


def _reported(steps: StepRecord) -> dict[str, Reported]:
    missed, age = steps.clock.underway.missed, steps.age
    return {
        MISSED: Reported(missed.astype(jnp.float32), steps.clock.taken),
        AGE: Reported(age.astype(jnp.float32), steps.clock.averaged),
    }


def clock(spec: RunSpec, record: RoundRecord) -> Cost:
    """What a round costs, from the steps of the server; with a quorum of all as in `fedsl`.

    Args:
      spec: functions and static numbers of the run, with a radio.
      record: of the round.
    """
    if record.server_steps is None:
        return side_by_side(spec, record)
    assert spec.radio is not None
    return cost_of_steps(spec.radio, record.participants, record.server_steps)


def _init_state(spec: RunSpec, key: Array, image: tuple[int, ...], state: State) -> Any:
    if quorum_of(spec) == spec.participants:
        return None
    return arrivals.first_progress(spec, key, image, state)


def _check(spec: RunSpec) -> None:
    quorum, most = spec.options["quorum"], spec.options["max_staleness"]
    count = spec.participants
    if quorum > count:
        raise flag_error("quorum", quorum, f"at most {count}, the number of participants")
    least = -(-count // quorum_of(spec)) - 1
    if most and most < least:
        allowed = f"0 or at least {least}: steps that take {quorum} of {count} pass others over"
        raise flag_error("max_staleness", most, allowed)
    if len(spec.pruner.width_configs) > 1:
        raise UserError(
            "with --algorithm=semi_async channels are removed at one rate in all rounds; "
            "use --prune_kind=mask or --prune_ramp_rounds=0"
        )
    if spec.client_optimizer_state == "average":
        allowed = "keep or reset with --algorithm=semi_async"
        raise flag_error("client_optimizer_state", "average", allowed)
    if spec.adapters is not None and spec.adapters.stacks:
        raise flag_error(
            "adapter_averaging", "stack", "avg, freeze or svd with --algorithm=semi_async"
        )


def _uncompressed(config: Any) -> str:
    del config
    return "with --algorithm=semi_async, which sends the model down as it is"


def _together(config: Any) -> str | None:
    all_clients = config.quorum in (0, config.clients)
    return "with a --quorum of all clients" if all_clients else None


QUORUM = Option(
    "quorum",
    0,
    "Messages, activations or client parts, that the server of semi_async waits for before it "
    "steps; 0 for all participants.",
    "a whole number from 0 to 1000000",
    lambda value: 0 <= value <= 1_000_000,
)
STALENESS = Option(
    "staleness",
    "constant",
    "Weight of a client part by the averages since the client received the model: constant, "
    "poly(a) for (1 + age)^-a, or hinge(a,b) for 1 up to age b and then 1 / (a (age - b) + 1).",
    staleness.ALLOWED,
    staleness.is_valid,
    idle=_together,
)
MAX_STALENESS = Option(
    "max_staleness",
    0,
    "Steps of the server that a client may miss in a row before the server waits for it (column "
    "missed_steps, not staleness); 0 for any number.",
    "a whole number from 0 to 1000000",
    lambda value: 0 <= value <= 1_000_000,
    idle=_together,
)

ALGORITHM = Algorithm(
    fedsl.exchange,
    # How long a client computes does not depend on which weights its masks keep.
    uses=SPLIT - OUTAGE - DEADLINE - {"mask_compute"},
    streams=(*SPLIT_STREAMS[:-1], MODEL_DOWN._replace(idle=_uncompressed)),
    options=(QUORUM, STALENESS, MAX_STALENESS),
    reports=(MISSED, AGE),
    clock=clock,
    run_round=run_round,
    compress_by_default=True,
    equal_shapes=True,
    all_take_part=True,
    with_all="fedsl",
    one_at_a_time=lambda config: ("algorithm",),
    server_batch=lambda participants: participants,
    answered=quorum_of,
    init_state=_init_state,
    check=_check,
)
