"""One exchange of all participants with the server: the hot path, in the order of the protocol."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.compression.message import Mask, Message, kept_only, message_bytes
from jfedsl.engine import client_step
from jfedsl.engine.server_step import ServerStep, joint_step
from jfedsl.engine.state import Client, CompressorStates, RunSpec, Server, present_weights
from jfedsl.engine.traffic import label_bits
from jfedsl.keys import Stage, fold
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.slots import where_rows
from jfedsl.wireless.radio import Conditions


class Batch(NamedTuple):
    """One mini-batch for every place: images float32 `[P, B, ...]`, labels int32 `[P, B]`."""

    images: Array
    labels: Array


class ExchangeRecord(struct.PyTreeNode):
    """What one exchange cost, where participants compute.

    Attributes:
      losses: float32 `[P]`, mean loss of each one's batch before the server's step.
      smashed_up_bytes: int32 `[P]`, labels included.
      cut_gradient_down_bytes: int32 `[P]`.
      arrived: bool `[K]`, whether a participant's activations reached the server. Where they did
        not, there was nothing to compute a loss of: 0 in `losses` stands for that.
    """

    losses: Array
    smashed_up_bytes: Array
    cut_gradient_down_bytes: Array
    arrived: Array


class Availability(NamedTuple):
    """Who takes part in an exchange, where not all do.

    Attributes:
      has_current_model: bool `[K]`, who holds the period's model, computes and sends.
      conditions: of the round.
    """

    has_current_model: Array
    conditions: Conditions

    def arrived(self, deadline: float | None, sent_bytes: Array) -> Array:
        """Whose activations, of so many bytes, reach the server in time; bool `[K]`."""
        there = self.has_current_model & self.conditions.reachable
        if deadline is None:
            return there
        sending = 8.0 * sent_bytes.astype(jnp.float32) / self.conditions.up_rate
        return there & (self.conditions.forward + sending <= deadline)


def exchange(
    spec: RunSpec,
    forwards: Sequence[ClientForward],
    server: Server,
    clients: Client,
    batch: Batch,
    key: Array,
    weights: Array,
    step: Array,
    availability: Availability | None = None,
    server_step: ServerStep = joint_step,
) -> tuple[Server, Client, ExchangeRecord]:
    """Participants compute and send, the server steps and answers, participants step.

    Who does not take part sends nothing that counts and stays as it was; where nobody does, the
    server stays, too.

    Args:
      spec: of the run.
      forwards: in which the clients of each group compute.
      server: the server's part.
      clients: the participants, `[P, ...]`.
      batch: one mini-batch each.
      key: of this exchange; a client's is folded with its number.
      weights: float32 `[K]`, of the weighted mean over clients.
      step: int32 scalar, exchanges of the run before this one.
      availability: who takes part; None: all.
      server_step: the server's step.

    Returns:
      The server and the participants after their step, and what it cost.
    """
    slots = spec.slots
    keys = jax.vmap(lambda number: fold(key, number))(clients.number)
    # Layers run for a chunk of clients at once. Compressors and optimizer steps are many small
    # operations, whose overhead in a loop over clients would exceed their work; they run for all.
    activation, stats, backs = client_step.forward(spec, forwards, clients, batch.images, key)
    states, smashed, uplink_vjp = jax.vmap(partial(send_smashed, spec))(clients, activation, keys)
    labels = label_bits(spec)
    up_bytes = jax.vmap(lambda message: message_bytes([message], labels))(smashed)
    up_bytes *= int(spec.splits)  # else nothing travels
    arrived, values, before, there = None, smashed.values, clients, jnp.ones(weights.shape, bool)
    if availability is not None:
        assert spec.radio is not None
        sent = slots.to_participants(up_bytes)
        there = arrived = availability.arrived(spec.radio.deadline, sent)
        weights = present_weights(weights, arrived)
        values = where_rows(slots.to_slots(arrived), values, jnp.zeros_like(values))
    server, losses, cut_gradient = server_step(
        spec, server, slots.shard(values), batch.labels, weights, arrived, step, key
    )
    cut_gradient = slots.shard(cut_gradient)
    states, returned = jax.vmap(partial(send_cut_gradient, spec))(
        clients.replace(compressor_states=states), cut_gradient, smashed.kept, keys
    )
    gradient = jax.vmap(lambda uplink_vjp, values: uplink_vjp(values)[0])(
        uplink_vjp, returned.values
    )
    weight_gradient = client_step.backward(
        spec, forwards, clients, batch.images, backs, gradient, key
    )
    clients = clients.replace(stats=stats, compressor_states=states)
    clients = client_step.step(spec, clients, weight_gradient, keys, step)
    down_bytes = jax.vmap(lambda message: message_bytes([message]))(returned)
    down_bytes *= int(spec.splits)
    if availability is not None:
        took_part, has_current_model = slots.to_slots((there, availability.has_current_model))
        clients = where_rows(took_part, clients, before)
        losses, down_bytes = (jnp.where(took_part, x, 0) for x in (losses, down_bytes))
        up_bytes = jnp.where(has_current_model, up_bytes, 0)
    return server, slots.shard(clients), ExchangeRecord(losses, up_bytes, down_bytes, there)


def send_smashed(
    spec: RunSpec, client: Client, activation: Array, key: Array
) -> tuple[CompressorStates, Message, Any]:
    """Sends one client's activation at the cut, without the channels it does not have.

    Returns:
      The link states, what the server receives, and the function that maps a gradient of that to
      the activation's: through dropout's mask and scale, straight through quantizers.
    """
    states, kept = client.compressor_states, spec.pruner.cut_channel_mask(client.masks)
    masks = () if kept is None else (Mask(kept[(None,) * (activation.ndim - 1)]),)
    compressor = spec.compressors["smashed"](client.number)

    def send(activation: Array) -> tuple[Array, tuple[Any, Message]]:
        link, message = compressor.send(
            states["smashed"], fold(key, Stage.SMASHED), Message(activation, masks)
        )
        return message.values, (link, message)

    _, uplink_vjp, (link, message) = jax.vjp(send, activation, has_aux=True)
    return {**states, "smashed": link}, message, uplink_vjp


def send_cut_gradient(
    spec: RunSpec, client: Client, gradient: Array, arrived: Array | None, key: Array
) -> tuple[CompressorStates, Message]:
    """Sends one client the gradient of the entries that arrived from it."""
    states = client.compressor_states
    link, message = spec.compressors["cut_gradient"](client.number).send(
        states["cut_gradient"], fold(key, Stage.CUT_GRADIENT), kept_only(gradient, arrived)
    )
    return {**states, "cut_gradient": link}, message
