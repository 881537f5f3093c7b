"""The messages that carry the client-side model: how it arrives, and what that takes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.compression.message import FLOAT_BITS, Message, kept_only, message_bytes
from jfedsl.engine.adapter_averaging import AdapterRule, stacked_entries, without_adapters
from jfedsl.engine.averaging import moment_masks
from jfedsl.engine.personal import received_by, shared_part, with_shared
from jfedsl.engine.state import Client, RunSpec, State
from jfedsl.keys import Purpose, fold


def download(spec: RunSpec, key: Array, round_: Array, client: Client) -> tuple[Client, Array]:
    """One client with the model as it arrives, and the bytes that took.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      round_: that the period starts with.
      client: with the aggregator's model and new masks.
    """
    whole = model_bytes(spec, client, with_masks=True)
    if spec.adapters is not None and spec.adapters.stacks:
        whole = jnp.where(round_ > 0, _stack_bytes(spec, spec.adapters, client), whole)
    if spec.compressors.get("model_down") is None:
        return client, whole
    kept, params = (
        shared_part(spec, x) for x in (spec.pruner.kept(client.masks).params, client.params)
    )
    memory, change, messages = send_tree(
        spec.compressors["model_down"](client.number),
        client.compressor_states["model_down"],
        fold(key, Purpose.MODEL_DOWN, round_, client.number),
        jax.tree.map(jnp.subtract, params, client.received),
        kept,
    )
    # A client that has never received anything gets the weights themselves.
    met = client.batches_seen > 0
    arrived = jax.tree.map(
        lambda w, old, d: jnp.where(met, old + d, w), params, client.received, change
    )
    messages += _side_messages(spec, client)
    changed = message_bytes(messages, spec.pruner.mask_bits(client.masks))
    pick = partial(jnp.where, met)
    client = client.replace(
        params=with_shared(spec, client.params, _where_kept(kept, arrived, params)),
        received=_where_kept(kept, arrived, client.received),
        compressor_states={
            **client.compressor_states,
            "model_down": jax.tree.map(pick, memory, client.compressor_states["model_down"]),
        },
    )
    return client, jnp.where(met, changed, whole)


def _where_kept(kept: Any, new: Any, old: Any) -> Any:
    return new if kept is None else jax.tree.map(jnp.where, kept, new, old)


def upload(spec: RunSpec, key: Array, state: State, client: Client) -> tuple[Client, Array]:
    """One client as the aggregator sees it after its upload, and the bytes that took.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      state: at the upload.
      client: with the model that it received, unless all received the aggregator's.
    """
    if spec.compressors.get("model_up") is None:
        return client, model_bytes(spec, client, with_masks=False)
    received = received_by(spec, state.aggregator.params, client)
    memory, update, messages = send_tree(
        spec.compressors["model_up"](client.number),
        client.compressor_states["model_up"],
        fold(key, Purpose.MODEL_UP, state.round, client.number),
        jax.tree.map(jnp.subtract, shared_part(spec, client.params), received),
        shared_part(spec, spec.pruner.kept(client.masks).params),
    )
    client = client.replace(
        params=with_shared(spec, client.params, jax.tree.map(jnp.add, received, update)),
        compressor_states={**client.compressor_states, "model_up": memory},
    )
    return client, message_bytes([*messages, *_side_messages(spec, client)])


def model_bytes(spec: RunSpec, client: Client, with_masks: bool) -> Array:
    """Bytes of one client's kept weights and whatever else is shared, uncompressed, int32."""
    kept = spec.pruner.kept(client.masks).params
    messages = _messages(spec, client.params, kept) + _side_messages(spec, client)
    return message_bytes(messages, spec.pruner.mask_bits(client.masks) if with_masks else 0)


def _stack_bytes(spec: RunSpec, rule: AdapterRule, client: Client) -> Array:
    """Bytes of the factors of all clients and of one client's other weights, int32.

    New adapters are drawn from a common seed.
    """
    others = jax.tree.leaves(without_adapters(client.params))
    messages = [Message(leaf) for leaf in others] + _side_messages(spec, client)
    return message_bytes(messages, FLOAT_BITS * stacked_entries(rule, client.params))


def _messages(spec: RunSpec, tree: Any, kept: Any) -> list[Message]:
    """Of what is not personal in a tree by layer, uncompressed."""
    leaves, kept = jax.tree.leaves(shared_part(spec, tree)), shared_part(spec, kept)
    masks = [None] * len(leaves) if kept is None else jax.tree.leaves(kept)
    return [kept_only(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)]


def _side_messages(spec: RunSpec, client: Client) -> list[Message]:
    """What travels with the model, uncompressed: statistics and optimizer state, where shared."""
    messages = []
    if spec.statistics == "aggregate":
        messages += _messages(spec, client.stats, spec.pruner.kept(client.masks).stats)
    # Step counters alone are worth nothing.
    if jax.tree.leaves(client.params) and spec.client_optimizer_state == "average":
        messages += _optimizer_messages(spec, client)
    return messages


def _optimizer_messages(spec: RunSpec, client: Client) -> list[Message]:
    """A client's moments, of entries that it kept, and its step counters: 32 bits each."""
    is_moment, kept = moment_masks(spec, client, spec.pruner.kept(client.masks))
    rows = zip(*map(jax.tree.leaves, (is_moment, client.optimizer, kept)), strict=True)
    return [kept_only(leaf, mask if flag else None) for flag, leaf, mask in rows]
