"""Auxiliary layers: a loss that clients compute by themselves, right behind the cut."""

from typing import Any

import jax
from jax import Array

from jfedsl.engine.exchange import Exchange
from jfedsl.engine.state import Client
from jfedsl.models import layers
from jfedsl.sharding.client_map import default_chunk, map_clients


def auxiliary_losses(
    x: Exchange, clients: Client, smashed: Array, labels: Array
) -> tuple[Array, Any, Array]:
    """The losses of the participants' auxiliary layers on their own activations.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      smashed: activations at the cut, `[P, B, ...]`.
      labels: targets, `[P, B, ...]`.

    Returns:
      Each client's mean loss `[P]`, and its gradients: of the parameters of its auxiliary layers,
      `[P, ...]`, and of its activation, `[P, B, ...]`.
    """
    spec = x.spec

    def loss(params: Any, stats: Any, smashed: Array, labels: Array) -> Array:
        outputs, _ = layers.apply(spec.auxiliary, params, stats, smashed, True, spec.dtype)
        return spec.task.mean_loss(outputs, labels)

    gradients = jax.value_and_grad(loss, argnums=(0, 2))
    params, stats = clients.params[spec.cut :], clients.stats[spec.cut :]
    # As for clients' layers: on CPU convolutions run in a loop, dense heads as one product.
    one = jax.tree.map(lambda leaf: leaf[0], params)
    chunk = default_chunk(jax.default_backend(), one, labels.shape[0])
    mapped = map_clients(gradients, chunk, spec.slots.mesh)
    losses, (head, cut) = mapped(params, stats, smashed, labels)
    return losses, head, spec.slots.shard(cut)
