"""The tail: the last layers of the model where clients hold them, with the loss on their labels."""

from typing import Any

import jax
from jax import Array

from jfedsl.engine.auxiliary import map_layers
from jfedsl.engine.batch import Batch
from jfedsl.engine.client_step import backward_mode
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.parts import tail_of_client, tail_part
from jfedsl.engine.state import Client
from jfedsl.keys import Stage
from jfedsl.models import layers


def tail_losses(
    x: Exchange, clients: Client, received: Array, batch: Batch
) -> tuple[Client, Array, Any, Array]:
    """The losses of the participants' tails.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      received: what the tails take, `[P, B, ...]`.
      batch: the mini-batches, with the labels.

    Returns:
      The participants with new statistics of the tail; each one's mean loss `[P]`; and its
      gradients, by the parameters of the tail `[P, ...]` and at what was received `[P, B, ...]`.
    """
    spec, model = x.spec, tail_part(x.spec, x.spec.model)
    params, stats = (tail_of_client(spec, kind) for kind in (clients.params, clients.stats))

    def loss(
        params: Any,
        stats: Any,
        received: Array,
        labels: Array,
        lengths: Array | None,
        number: Array,
    ) -> tuple[Array, Any]:
        with backward_mode(spec, x.key, number, Stage.TAIL_BACKWARD):
            y, moved = layers.apply(model, params, stats, received, True, spec.dtype, lengths)
        return spec.task.mean_loss(y, labels), moved

    gradients = jax.value_and_grad(loss, argnums=(0, 2), has_aux=True)
    rows = received, batch.labels, batch.lengths, clients.number
    (losses, moved), (gradient, at_input) = map_layers(x, gradients, params, stats, *rows)
    stats = clients.stats[: spec.cut] + moved + clients.stats[spec.cut + spec.tail :]
    return clients.replace(stats=stats), losses, gradient, spec.slots.shard(at_input)
