"""All exchanges of a round of participants with the server, one after another."""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data import batches
from jfedsl.engine.examples import fetch
from jfedsl.engine.exchange import Batch, ExchangeRecord, Presence, exchange
from jfedsl.engine.server_step import ServerStep, joint_step
from jfedsl.engine.state import Client, Data, Scheme, Server, State, weights
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.pruner import Form
from jfedsl.sharding.client_map import map_clients


class Exchanges(Protocol):
    """All exchanges of a round."""

    def __call__(
        self,
        scheme: Scheme,
        forms: Sequence[Form],
        data: Data,
        key: Array,
        state: State,
        presence: Presence | None,
    ) -> tuple[State, ExchangeRecord]:
        """Runs them.

        Args:
          scheme: of the run.
          forms: in which the clients of each group compute.
          data: of the run.
          key: run key.
          state: before the first exchange.
          presence: who takes part; None: all.

        Returns:
          The state after the last exchange, and the records, `[S, ...]`.
        """


def exchanges(
    scheme: Scheme,
    forms: Sequence[Form],
    data: Data,
    key: Array,
    state: State,
    presence: Presence | None,
    serve: ServerStep = joint_step,
    present: Callable[[Presence | None, Array], Presence | None] = lambda presence, step: presence,
    count: int | None = None,
) -> tuple[State, ExchangeRecord]:
    """Exchanges of all participants together, one after another: `Exchanges` of what is not said.

    Args:
      scheme: of the run.
      forms: in which the clients of each group compute.
      data: of the run.
      key: run key.
      state: before the first exchange.
      presence: who takes part; None: all.
      serve: the server's step in each.
      present: `(presence, step)` to who takes part in an exchange, numbered from 0.
      count: how many; None for local_steps.

    Returns:
      The state after the last exchange, and the records, `[S, ...]`.
    """
    ids, number = state.participants, state.round
    share = weights(scheme, data.partition, ids)

    def one(
        carry: tuple[Server, Client], step: Array
    ) -> tuple[tuple[Server, Client], ExchangeRecord]:
        server, clients = carry
        batch = next_batch(scheme, data, key, clients.number, clients.drawn)
        own = fold(key, Purpose.EXCHANGE, number, step)
        total = number * scheme.local_steps + step
        server, clients, record = exchange(
            scheme,
            forms,
            server,
            clients,
            batch,
            own,
            share,
            total,
            present(presence, step),
            serve,
        )
        return (server, clients), record

    steps = jnp.arange(scheme.local_steps if count is None else count, dtype=jnp.int32)
    (server, clients), records = lax.scan(one, (state.server, state.clients), steps)
    return state.replace(server=server, clients=clients), records


def next_batch(scheme: Scheme, data: Data, key: Array, ids: Array, drawn: Array) -> Batch:
    """Next mini-batches of clients `ids[P]`, gathered, augmented and normalised on the devices."""
    order, augmentation = fold(key, Purpose.BATCHES), fold(key, Purpose.AUGMENTATION)
    placement = scheme.placement
    # Each device by itself: how long drawing takes depends on what is drawn.
    positions = map_clients(
        lambda n, d: batches.draw(order, data.partition, n, d, scheme.batch_size, scheme.sampling),
        placement.places,
        placement.mesh,
    )(ids, drawn)
    images, labels = fetch(scheme, data, positions)
    if scheme.augment is not None:
        keys = jax.vmap(lambda n, d: fold(augmentation, n, d))(ids, drawn)
        images = jax.vmap(scheme.augment)(keys, images)
    return Batch(data.pixels.normalise(images), labels)
