"""One exchange of all participants with the server: the hot path, in the order of the protocol."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from jfedsl.compression.compressor import Message, kept_only, message_bytes, send_tree
from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.protocol.clients import map_clients
from jfedsl.protocol.optimizers import masked_step
from jfedsl.protocol.state import Client, Scheme, Server
from jfedsl.protocol.traffic import label_bits
from jfedsl.pruning.pruner import keep

_LEAST_WEIGHT = 1e-15


class Batch(NamedTuple):
    """One mini-batch of every participant: images float32 `[K, B, ...]`, labels int32 `[K, B]`."""

    images: Array
    labels: Array


class ExchangeRecord(struct.PyTreeNode):
    """What one exchange cost, per participant.

    Attributes:
      losses: float32 `[K]`, mean loss of each one's batch before the server's step.
      smashed_up_bytes: int32 `[K]`, labels included.
      cut_gradient_down_bytes: int32 `[K]`.
    """

    losses: Array
    smashed_up_bytes: Array
    cut_gradient_down_bytes: Array


def exchange(
    scheme: Scheme,
    server: Server,
    clients: Client,
    batch: Batch,
    keys: Array,
    weights: Array,
    step: Array,
) -> tuple[Server, Client, ExchangeRecord]:
    """Participants compute and send, the server steps and answers, participants step.

    Args:
      scheme: of the run.
      server: the server's part.
      clients: the participants, `[K, ...]`.
      batch: one mini-batch each.
      keys: PRNG keys `[K]` of this exchange.
      weights: float32 `[K]`, of the weighted mean over clients.
      step: int32 scalar, exchanges of the run before this one.

    Returns:
      The server and the participants after their step, and what it cost.
    """

    def forward(client: Client, images: Array, key: Array) -> tuple[Any, Any, Client]:
        message, back, client = _client_forward(scheme, client, images, key)
        return message, None if scheme.remat else back, client

    def backward(
        before: Client,
        client: Client,
        back: Any,
        images: Array,
        gradient: Array,
        kept: Any,
        key: Array,
    ) -> tuple[Client, Array]:
        if scheme.remat:
            _, back, _ = _client_forward(scheme, before, images, key)
        return _client_backward(scheme, client, back, kept_only(gradient, kept), key, step)

    before = clients
    smashed, back, clients = map_clients(forward, scheme.chunk)(clients, batch.images, keys)
    server, losses, cut_gradient = _server_step(
        scheme, server, smashed.values, batch.labels, weights, step
    )
    clients, down_bytes = map_clients(backward, scheme.chunk)(
        before, clients, back, batch.images, cut_gradient, smashed.kept, keys
    )
    labels = label_bits(scheme)
    up_bytes = jax.vmap(lambda message: message_bytes([message], labels))(smashed)
    return server, clients, ExchangeRecord(losses, up_bytes, down_bytes)


def _client_forward(
    scheme: Scheme, client: Client, images: Array, key: Array
) -> tuple[Message, Any, Client]:
    """Runs one client's pruned layers and sends the activation at the cut.

    Returns:
      What the server receives, the function that maps its gradient to that of the pruned weights
      (through dropout's mask and scale, straight through quantizers), and the client.
    """

    def smash(params: Any) -> tuple[Array, tuple[Any, Any, Message]]:
        activation, stats = layers.apply(
            scheme.model[: scheme.cut], params, client.stats, images, True, scheme.dtype
        )
        link, message = scheme.links.smashed.send(
            client.links.smashed, fold(key, Stage.SMASHED), Message(activation)
        )
        return message.values, (stats, link, message)

    params = keep(client.params, client.masks)
    _, back, (stats, link, message) = jax.vjp(smash, params, has_aux=True)
    links = client.links._replace(smashed=link)
    return message, back, client.replace(stats=stats, links=links)


def _server_step(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array, step: Array
) -> tuple[Server, Array, Array]:
    """Steps on the weighted mean loss of what arrived, as one batch with one set of weights.

    Args:
      scheme: of the run.
      server: before the step.
      smashed: float32 `[K, B, ...]`, 0 where nothing arrived.
      labels: int32 `[K, B]`.
      weights: float32 `[K]`.
      step: int32 scalar.

    Returns:
      The server after the step, every client's mean loss before it `[K]`, and the gradient of each
      client's own mean loss at what arrived from it, `[K, B, ...]`.
    """

    def own_losses(params: Any, smashed: Array) -> tuple[Array, Any]:
        merged = smashed.reshape(-1, *smashed.shape[2:])
        logits, stats = layers.apply(
            scheme.model[scheme.cut :], params, server.stats, merged, True, scheme.dtype
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.reshape(-1))
        return losses.reshape(labels.shape).mean(axis=1), stats

    losses, back, stats = jax.vjp(own_losses, server.params, smashed, has_aux=True)
    # One backward pass serves the server's weighted mean and every client's own loss. A weight of
    # 0 becomes one too small to be seen in a sum of float32, and large enough to divide by.
    weights = jnp.maximum(weights, _LEAST_WEIGHT)
    gradient, cut_gradient = back(weights)
    if jax.tree.leaves(server.stats):
        # Batch norm makes every loss depend on every client's activation: no division undoes that.
        _, cut_gradient = back(jnp.ones_like(losses))
    else:
        cut_gradient /= weights.reshape(-1, *(1,) * (cut_gradient.ndim - 1))
    params, optimizer = masked_step(
        scheme.server_optimizer, None, gradient, server.optimizer, server.params, step
    )
    return Server(params, stats, optimizer), losses, cut_gradient


def _client_backward(
    scheme: Scheme, client: Client, back: Any, gradient: Message, key: Array, step: Array
) -> tuple[Client, Array]:
    """Receives the gradient of what was sent, back-propagates it and steps on kept weights."""
    link, received = scheme.links.cut_gradient.send(
        client.links.cut_gradient, fold(key, Stage.CUT_GRADIENT), gradient
    )
    (weight_gradient,) = back(received.values)
    own, quantized, _ = send_tree(
        scheme.links.client_gradient,
        client.links.client_gradient,
        fold(key, Stage.CLIENT_GRADIENT),
        weight_gradient,
        client.masks,
    )
    params, optimizer = masked_step(
        scheme.client_optimizer, client.masks, quantized, client.optimizer, client.params, step
    )
    links = client.links._replace(cut_gradient=link, client_gradient=own)
    client = client.replace(params=params, optimizer=optimizer, links=links, drawn=client.drawn + 1)
    return client, message_bytes([received])
