"""Messages of one client in an exchange: an activation one way, its gradient the other way."""

from typing import Any

import jax
from jax import Array

from jfedsl.compression.message import Mask, Message, kept_only
from jfedsl.engine.state import Client, CompressorStates, RunSpec
from jfedsl.engine.streams import CUT_GRADIENT, SMASHED, Stream
from jfedsl.keys import fold
from jfedsl.models.padding import is_position


def send_activation(
    spec: RunSpec, client: Client, activation: Array, key: Array, lengths: Array | None = None,
    stream: Stream = SMASHED,
) -> tuple[CompressorStates, Message, Any]:  # fmt: skip
    """Sends one client's activation, without padding and channels that the client does not have.

    It goes up at the cut, or down to the tail.

    Args:
      spec: functions and static numbers of the run.
      client: the client.
      activation: `[B, ...]`.
      key: of the client in this exchange.
      lengths: positions of each example that are no padding, `[B]`; None without padding.
      stream: that it belongs to.

    Returns:
      The compressor states, what is received, and the function that maps a gradient of that
      to the activation's: through dropout's mask and scale, straight through quantizers.
    """
    states = client.compressor_states
    masks = known_masks(spec, client, activation, lengths, stream.at_tail)
    compressor = spec.compressors[stream.name](client.number)

    def send(activation: Array) -> tuple[Array, tuple[Any, Message]]:
        state, message = compressor.send(
            states[stream.name], fold(key, stream.stage), Message(activation, masks)
        )
        return message.values, (state, message)

    _, vjp, (state, message) = jax.vjp(send, activation, has_aux=True)
    return {**states, stream.name: state}, message, vjp


def known_masks(
    spec: RunSpec, client: Client, activation: Array, lengths: Array | None, at_tail: bool = False
) -> tuple[Mask, ...]:
    """Masks of an activation `[B, ...]` that both ends know: without padding and pruned channels.

    Args:
      spec: functions and static numbers of the run.
      client: the client.
      activation: `[B, ...]`.
      lengths: positions of each example that are no padding, `[B]`; None without padding.
      at_tail: whether it goes down to the tail, where no channel is pruned.
    """
    channels = None if at_tail else spec.pruner.cut_channel_mask(client.masks)
    here = is_position(activation, lengths)
    of_channels = None if channels is None else channels[(None,) * (activation.ndim - 1)]
    return tuple(Mask(chosen) for chosen in (here, of_channels) if chosen is not None)


def send_activation_gradient(
    spec: RunSpec,
    client: Client,
    gradient: Array,
    kept: Array | None,
    key: Array,
    stream: Stream = CUT_GRADIENT,
) -> tuple[CompressorStates, Message]:
    """Sends the gradient `[B, ...]` of the entries of one client's activation that arrived.

    It comes down at the cut, or goes up from the tail.

    Args:
      spec: functions and static numbers of the run.
      client: the client.
      gradient: `[B, ...]`.
      kept: bool `[B, ...]`, which entries arrived; None: all.
      key: of the client in this exchange.
      stream: that it belongs to.
    """
    states = client.compressor_states
    state, message = spec.compressors[stream.name](client.number).send(
        states[stream.name], fold(key, stream.stage), kept_only(gradient, kept)
    )
    return {**states, stream.name: state}, message
