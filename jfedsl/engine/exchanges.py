"""All exchanges of a round of participants with the server, one after another."""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data import batches
from jfedsl.engine.examples import fetch
from jfedsl.engine.exchange import Availability, Batch, ExchangeRecord, exchange
from jfedsl.engine.server_step import ServerStep, joint_step
from jfedsl.engine.state import Client, Data, RunSpec, Server, State, weights
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.client_map import map_clients


class Exchanges(Protocol):
    """All exchanges of a round."""

    def __call__(
        self,
        spec: RunSpec,
        forwards: Sequence[ClientForward],
        data: Data,
        key: Array,
        state: State,
        availability: Availability | None,
    ) -> tuple[State, ExchangeRecord]:
        """Runs them.

        Args:
          spec: of the run.
          forwards: in which the clients of each group compute.
          data: of the run.
          key: run key.
          state: before the first exchange.
          availability: who takes part; None: all.

        Returns:
          The state after the last exchange, and the records, `[S, ...]`.
        """


def exchanges(
    spec: RunSpec,
    forwards: Sequence[ClientForward],
    data: Data,
    key: Array,
    state: State,
    availability: Availability | None,
    server_step: ServerStep = joint_step,
    present: Callable[
        [Availability | None, Array], Availability | None
    ] = lambda availability, step: availability,
    count: int | None = None,
) -> tuple[State, ExchangeRecord]:
    """Exchanges of all participants together, one after another: `Exchanges` of what is not said.

    Args:
      spec: of the run.
      forwards: in which the clients of each group compute.
      data: of the run.
      key: run key.
      state: before the first exchange.
      availability: who takes part; None: all.
      server_step: the server's step in each.
      present: `(availability, step)` to who takes part in an exchange, numbered from 0.
      count: how many; None for local_steps.

    Returns:
      The state after the last exchange, and the records, `[S, ...]`.
    """
    ids, number = state.participants, state.round
    share = weights(spec, data.partition, ids)

    def one(
        carry: tuple[Server, Client], step: Array
    ) -> tuple[tuple[Server, Client], ExchangeRecord]:
        server, clients = carry
        batch = next_batch(spec, data, key, clients.number, clients.batches_seen)
        own = fold(key, Purpose.EXCHANGE, number, step)
        total = number * spec.local_steps + step
        server, clients, record = exchange(
            spec,
            forwards,
            server,
            clients,
            batch,
            own,
            share,
            total,
            present(availability, step),
            server_step,
        )
        return (server, clients), record

    steps = jnp.arange(spec.local_steps if count is None else count, dtype=jnp.int32)
    (server, clients), records = lax.scan(one, (state.server, state.clients), steps)
    return state.replace(server=server, clients=clients), records


def next_batch(spec: RunSpec, data: Data, key: Array, ids: Array, drawn: Array) -> Batch:
    """Next mini-batches of clients `ids[P]`, gathered, augmented and normalised on the devices."""
    order, augmentation = fold(key, Purpose.BATCHES), fold(key, Purpose.AUGMENTATION)
    slots = spec.slots
    # Each device by itself: how long drawing takes depends on what is drawn.
    positions = map_clients(
        lambda n, d: batches.draw(order, data.partition, n, d, spec.batch_size, spec.sampling),
        slots.num_slots,
        slots.mesh,
    )(ids, drawn)
    images, labels = fetch(spec, data, positions)
    if spec.augment is not None:
        keys = jax.vmap(lambda n, d: fold(augmentation, n, d))(ids, drawn)
        images = jax.vmap(spec.augment)(keys, images)
    return Batch(data.pixels.normalise(images), labels)
