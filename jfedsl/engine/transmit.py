"""Messages of an exchange: activations up at the cut, and their gradients down.

Where clients hold the last layers too, activations come down to them, and gradients go up.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.message import Message, message_bytes
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.messages import send_activation, send_activation_gradient
from jfedsl.engine.state import Client, present_weights
from jfedsl.engine.streams import CUT_GRADIENT, SMASHED, Stream
from jfedsl.engine.traffic import bits_beside, is_sent
from jfedsl.keys import fold
from jfedsl.sharding.slots import where_rows


class Uplink(NamedTuple):
    """What the server received of all participants.

    Attributes:
      values: float32 `[P, B, ...]`, 0 where nothing arrived.
      kept: bool `[P, B, ...]`, which entries were sent; None: all.
      vjp: maps a gradient `[P, B, ...]` of `values` to that of what was sent: through dropout's
        mask and scale, straight through quantizers.
      bytes: int32 `[P]`.
      lengths: positions of each example that are no padding, int32 `[P, B]`; None without padding.
      arrived: bool `[K]`, whose message reached the server in time; None: everyone's.
      weights: float32 `[K]`, of the participants whose message arrived, sum 1; all 0 without any.
    """

    values: Array
    kept: Array | None
    vjp: Any
    bytes: Array
    lengths: Array | None
    arrived: Array | None
    weights: Array

    def took_part(self) -> Array:
        """Whose message arrived, bool `[K]`."""
        return jnp.ones(self.weights.shape, bool) if self.arrived is None else self.arrived


class Downlink(NamedTuple):
    """What all participants received.

    Attributes:
      values: `[P, B, ...]`.
      bytes: int32 `[P]`.
      kept: which entries came down, bool `[P, B, ...]`; None: all.
      vjp: of activations, likewise; None of gradients, whose compression has none.
    """

    values: Array
    bytes: Array
    kept: Array | None = None
    vjp: Any = None


def send_up(
    x: Exchange, clients: Client, activation: Array, lengths: Array | None,
    stream: Stream = SMASHED,
) -> tuple[Client, Uplink]:  # fmt: skip
    """Sends the participants' activations, with their labels, to the server.

    Compressors are many small operations, whose overhead in a loop over clients would exceed their
    work: they run for all clients at once.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      activation: `[P, B, ...]`.
      lengths: positions of each example that are no padding, `[P, B]`; they are sent along, and
        padding is not. None without padding.
      stream: that the message belongs to.

    Returns:
      The participants with the new states of their compressors, and what arrived.
    """
    spec, slots = x.spec, x.spec.slots
    send = partial(send_activation, spec, stream=stream)
    states, message, vjp = jax.vmap(send)(clients, activation, x.client_keys, lengths)

    def size(message: Message, lengths: Array | None) -> Array:
        return message_bytes([message], bits_beside(spec, stream, lengths))

    sent = jax.vmap(size)(message, lengths)
    arrived, values, weights = None, message.values, x.weights
    if x.availability is not None:
        assert spec.radio is not None
        arrived = x.availability.arrived(spec.radio.deadline, slots.to_participants(sent))
        weights = present_weights(weights, arrived)
        values = where_rows(slots.to_slots(arrived), values, jnp.zeros_like(values))
    values, back = slots.shard(values), partial(_vjp_of_each, vjp)
    received = Uplink(values, message.kept, back, sent, lengths, arrived, weights)
    return clients.replace(compressor_states=states), received


def _vjp_of_each(vjp: Any, gradient: Array) -> Array:
    """Gradients `[P, B, ...]` of messages as those of what was to be sent."""
    each: Array = jax.vmap(lambda one, g: one(g)[0])(vjp, gradient)
    return each


def send_activation_down(
    x: Exchange, clients: Client, activation: Array, up: Uplink, stream: Stream
) -> tuple[Client, Downlink]:
    """Sends every participant what the server's layers made of its activation.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      activation: `[P, B, ...]`.
      up: what arrived from them before; the server sends no padding.
      stream: that it belongs to.

    Returns:
      The participants with the new states of the compressors, and what they received.
    """
    send = partial(send_activation, x.spec, stream=stream)
    states, message, vjp = jax.vmap(send)(clients, activation, x.client_keys, up.lengths)
    sent = jax.vmap(lambda message: message_bytes([message]))(message)
    back = partial(_vjp_of_each, vjp)
    received = Downlink(x.spec.slots.shard(message.values), sent, message.kept, back)
    return clients.replace(compressor_states=states), received


def send_gradient_up(
    x: Exchange, clients: Client, gradient: Array, down: Downlink, up: Uplink, stream: Stream
) -> tuple[Client, Uplink]:
    """Sends the server the gradient of what each participant received, of the entries it received.

    Those whose earlier message did not arrive send nothing. The server waits for all others: a
    deadline is of the earlier message.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      gradient: of their own mean losses at what they received, `[P, B, ...]`.
      down: what they received.
      up: what arrived from them before.
      stream: that it belongs to.

    Returns:
      The participants with the new states of the compressors, and what arrived; `vjp` maps it to
      the gradient of what the server was to send.
    """
    send, slots = partial(send_activation_gradient, x.spec, stream=stream), x.spec.slots
    states, message = jax.vmap(send)(clients, gradient, down.kept, x.client_keys)
    values, sent = message.values, jax.vmap(lambda message: message_bytes([message]))(message)
    if up.arrived is not None:
        nothing = jnp.zeros_like(values), jnp.zeros_like(sent)
        values, sent = where_rows(slots.to_slots(up.arrived), (values, sent), nothing)
    received = up._replace(values=slots.shard(values), kept=message.kept, vjp=down.vjp, bytes=sent)
    return clients.replace(compressor_states=states), received


def at_hand(x: Exchange, values: Array) -> Uplink:
    """Values `[P, B, ...]` that the server has without any message."""
    nothing = jnp.zeros(values.shape[0], jnp.int32)
    # Whole numbers have no gradient, which the server's step takes of all that it is given.
    values = values.astype(jnp.float32)
    return Uplink(values, None, lambda gradient: gradient, nothing, None, None, x.weights)


def send_down(
    x: Exchange,
    clients: Client,
    gradient: Array,
    kept: Array | None,
    stream: Stream = CUT_GRADIENT,
) -> tuple[Client, Downlink]:
    """Sends every participant its gradient, of the entries that it had sent.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      gradient: `[P, B, ...]`.
      kept: bool `[P, B, ...]`, which entries were sent up; None: all.
      stream: that it belongs to.

    Returns:
      The participants with the new states of the compressors, and what they received: without
      parameters nothing, in 0 bytes, and `values` is the gradient as it is, which nobody uses.
    """
    if not is_sent(x.spec, stream, clients.params):
        return clients, Downlink(gradient, jnp.zeros(clients.number.shape, jnp.int32))
    send = partial(send_activation_gradient, x.spec, stream=stream)
    states, message = jax.vmap(send)(clients, gradient, kept, x.client_keys)
    sent = jax.vmap(lambda message: message_bytes([message]))(message)
    received = Downlink(message.values, sent, message.kept)
    return clients.replace(compressor_states=states), received


def broadcast(x: Exchange, clients: Client, values: Array, stream: Stream) -> Downlink:
    """Sends one message to all participants, padding and all: none knows the lengths of the others.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      values: `[B, ...]`, what all are sent.
      stream: that it belongs to; its compressor is the same for all clients and has no memory.

    Returns:
      What the participants received; `bytes` is the size of the one message at every participant,
      0 where these have no parameters to step on.
    """
    key = fold(x.key, x.spec.clients)  # no client has this number: all draw the same
    compressor = x.spec.compressors[stream.name](0)
    _, message = compressor.send(compressor.init(values), fold(key, stream.stage), Message(values))
    count = clients.number.size
    needed = is_sent(x.spec, stream, clients.params)
    sent = message_bytes([message]) if needed else jnp.int32(0)
    everywhere = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), (message.values, sent)
    )
    return Downlink(*x.spec.slots.shard(everywhere))
