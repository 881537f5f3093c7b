"""The next mini-batch of every client: drawn, gathered, augmented and normalised on the devices."""

from functools import partial
from typing import NamedTuple

import jax
from jax import Array

from jfedsl.data import batches
from jfedsl.engine.examples import fetch
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.state import Client, Data, RunSpec
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.sharding.client_map import map_clients


class Batch(NamedTuple):
    """One mini-batch for every slot.

    Attributes:
      inputs: of the model, `[P, B, ...]`: float32, or int32 such as token ids.
      labels: targets, int32 `[P, B]`, float32 `[P, B, D]`, or int32 `[P, B, T]` of next tokens.
      lengths: positions of each input that are no padding, int32 `[P, B]`; None without padding.
    """

    inputs: Array
    labels: Array
    lengths: Array | None


def draw_batch(x: Exchange, clients: Client) -> tuple[Client, Batch]:
    """The clients `[P, ...]` after they have drawn their next mini-batches, and these."""
    batch = next_batch(x.spec, x.data, x.run_key, clients.number, clients.batches_seen)
    return clients.replace(batches_seen=clients.batches_seen + 1), batch


def next_batch(spec: RunSpec, data: Data, key: Array, ids: Array, batches_seen: Array) -> Batch:
    """The mini-batches of clients `ids[P]` that have drawn `batches_seen[P]` before.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      key: run key.
      ids: int32 `[P]`.
      batches_seen: int32 `[P]`.
    """
    order, augmentation = fold(key, Purpose.BATCHES), fold(key, Purpose.AUGMENTATION)
    slots = spec.slots
    # Each device by itself: how long drawing takes depends on what is drawn.
    positions = map_clients(
        lambda n, d: batches.draw(order, data.partition, n, d, spec.batch_size, spec.sampling),
        slots.num_slots,
        slots.mesh,
    )(ids, batches_seen)
    inputs, labels = fetch(spec, data, positions)
    if spec.augment is not None:
        keys = jax.vmap(lambda n, d: fold(augmentation, n, d))(ids, batches_seen)
        inputs = jax.vmap(spec.augment)(keys, inputs)
    inputs = data.pixels.prepare(inputs)
    return Batch(inputs, labels, jax.vmap(partial(layers.lengths_of, spec.model))(inputs))
