"""How long participants compute in a round and how fast they send, as the network has it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.engine.participants import period_start
from jfedsl.engine.state import Client, RunSpec
from jfedsl.keys import Purpose, fold
from jfedsl.pruning.weights import prunable
from jfedsl.wireless.radio import Conditions, conditions


def round_conditions(
    spec: RunSpec, key: Array, round_: Array, ids: Array, clients: Client
) -> Conditions:
    """The conditions of the participants `[K]` in a round.

    Args:
      spec: of the run, with a radio.
      key: run key.
      round_: int32 scalar.
      ids: of the participants, int32 `[K]`.
      clients: these `[P, ...]`, with this period's masks where they are needed.
    """
    radio, pruner = spec.radio, spec.pruner
    assert radio is not None
    row = jnp.minimum(period_start(spec, round_), len(pruner.config_of_round) - 1)
    config_row = jnp.asarray(pruner.config_of_round)[row]
    group = np.zeros(spec.clients, np.int32)
    for number, members in enumerate(pruner.groups):
        group[members] = number
    rows = jnp.asarray(np.array(pruner.width_configs, np.int32))
    forward_of = rows[config_row][jnp.asarray(group)[ids]]  # number of each one's ClientForward
    shares = jnp.ones((ids.size, radio.flop_counts.forward.shape[1]))
    if radio.sparse and pruner.names:
        kept = jax.vmap(lambda client: _kept_shares(spec, client))(clients)
        kept = spec.slots.to_participants(kept)
        shares = shares.at[:, : spec.cut].set(kept)  # auxiliary layers are never pruned
    speed = radio.deployment.hardware.flops[ids]
    forward = jnp.sum(radio.flop_counts.forward[forward_of] * shares, axis=1) / speed
    backward = jnp.sum(radio.flop_counts.backward[forward_of] * shares, axis=1) / speed
    bits = radio.deployment.bits[config_row][ids]
    radio_key = fold(radio.deployment.key(key), Purpose.RADIO)
    return conditions(radio, radio_key, round_, ids, forward, backward, bits)


def _kept_shares(spec: RunSpec, client: Client) -> Array:
    """The fraction of each layer's prunable weights that a client keeps, `[L_c]`."""
    kept = spec.pruner.kept(client.masks).params[: spec.cut]
    flags = prunable(client.params[: spec.cut], len(spec.model))
    shares = []
    for layer, flagged in zip(kept, flags, strict=True):
        pairs = zip(jax.tree.leaves(layer), jax.tree.leaves(flagged), strict=True)
        masks = [mask for mask, flag in pairs if flag]
        count = sum(mask.size for mask in masks)
        total = sum((jnp.sum(mask, dtype=jnp.float32) for mask in masks), start=jnp.zeros(()))
        shares.append(total / count if count else jnp.ones(()))
    return jnp.stack(shares)
