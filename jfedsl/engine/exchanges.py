"""All exchanges of a round of participants with the server, one after another."""

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.engine.exchange import Availability, Exchange, ExchangeRecord, Reported
from jfedsl.engine.state import Client, Data, RunSpec, Server, State, weights
from jfedsl.engine.streams import LOCAL, UP
from jfedsl.errors import UserError
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.slots import where_rows

# All exchanges of a round: arguments and results of `exchanges`, without its options.
Exchanges = Callable[
    [RunSpec, Sequence[ClientForward], Data, Array, State, Availability | None],
    tuple[State, ExchangeRecord],
]


def exchanges(
    spec: RunSpec,
    forwards: Sequence[ClientForward],
    data: Data,
    key: Array,
    state: State,
    availability: Availability | None,
    present: Callable[[Availability | None, Array], Availability | None] = lambda a, step: a,
    count: int | None = None,
) -> tuple[State, ExchangeRecord]:
    """Exchanges of all participants together, one after another.

    Args:
      spec: functions and static numbers of the run.
      forwards: how the clients of each of the pruner's groups compute their layers.
      data: training data of all clients.
      key: run key.
      state: before the first exchange.
      availability: which participants can take part; None: all.
      present: `(availability, step)` to that of one exchange, numbered from 0.
      count: how many; None for local_steps.

    Returns:
      The state after the last exchange, and the records, `[S, ...]`.
    """
    share = weights(spec, data.partition, state.participants)

    def one(
        carry: tuple[Server, Client], step: Array
    ) -> tuple[tuple[Server, Client], ExchangeRecord]:
        numbers, there = carry[1].number, present(availability, step)
        x = exchange_at(spec, forwards, data, key, (state.round, step), numbers, share, there)
        x = x._replace(aggregated=state.aggregator.params)
        server, clients, record = one_exchange(x, *carry)
        return (server, clients), record

    steps = jnp.arange(spec.local_steps if count is None else count, dtype=jnp.int32)
    (server, clients), records = lax.scan(one, (state.server, state.clients), steps)
    return state.replace(server=server, clients=clients), records


def exchange_at(
    spec: RunSpec, forwards: Sequence[ClientForward], data: Data, key: Array,
    at: tuple[Array, Array], numbers: Array, share: Array, availability: Availability | None,
) -> Exchange:  # fmt: skip
    """What the steps of one exchange share, with its keys.

    Args:
      spec: functions and static numbers of the run.
      forwards: how the clients of each of the pruner's groups compute their layers.
      data: training data of all clients.
      key: run key.
      at: the round, and the exchange in it, from 0.
      numbers: of the clients in their slots, int32 `[P]`.
      share: weights of the participants, `[K]`, sum 1.
      availability: which of them can take part; None: all.
    """
    round_, step = at
    exchange_key = fold(key, Purpose.EXCHANGE, round_, step)
    return Exchange(
        spec=spec,
        data=data,
        run_key=key,
        key=exchange_key,
        client_keys=jax.vmap(lambda n: fold(exchange_key, n))(numbers),
        step=round_ * spec.local_steps + step,
        forwards=forwards,
        weights=share,
        availability=availability,
    )


def one_exchange(
    x: Exchange, server: Server, clients: Client
) -> tuple[Server, Client, ExchangeRecord]:
    """The algorithm's exchange, undone for the participants that took no part in it.

    Such a participant stays as it was, and received nothing. What it tried to send counts if it
    held the model of the period.

    Raises:
      UserError: the algorithm's exchange leaves out what the algorithm declares, or adds to it.
    """
    slots, algorithm = x.spec.slots, x.spec.algorithm
    outcome = algorithm.exchange(x, server, clients)
    columns = {s.column for s in algorithm.streams if s.of_batch and s.direction != LOCAL}
    _check_names("sent", columns, outcome.sent)
    _check_names("reported", algorithm.reports, outcome.reported)
    after, losses, sent = outcome.clients, outcome.losses, dict(outcome.sent)
    reported = dict(outcome.reported)
    if x.availability is not None:
        took_part, holds = slots.to_slots((outcome.took_part, x.has_current_model()))
        after = where_rows(took_part, after, clients)
        losses = jnp.where(took_part, losses, 0)
        for stream in algorithm.streams:
            if stream.column in sent:
                counts = holds if stream.direction == UP else took_part
                sent[stream.column] = jnp.where(counts, sent[stream.column], 0)
        for name, (values, valid) in reported.items():
            reported[name] = Reported(values, valid & took_part)
    record = ExchangeRecord(losses, outcome.took_part, sent, reported)
    return outcome.server, slots.shard(after), record


def _check_names(field: str, declared: Collection[str], found: Collection[str]) -> None:
    if {*declared} != {*found}:
        wanted, given = (", ".join(sorted(names)) or "nothing" for names in (declared, found))
        raise UserError(
            f"the Outcome of an exchange must have {wanted} in `{field}`, as its algorithm "
            f"declares, not {given}"
        )
