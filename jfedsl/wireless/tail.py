"""What participants with a tail do between the two passes of the server."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.wireless.radio import Conditions, Radio
from jfedsl.wireless.stages import Stage, waited_for


class TailStages(NamedTuple):
    """What an exchange has besides, where clients have a tail: from the server's forward pass on.

    Attributes:
      clients: activations down, the tail's passes and gradients up of every exchange, `[S]`.
      server: seconds of the server's backward passes, `[S]`.
    """

    clients: Stage
    server: Array


def tail_stages(
    radio: Radio, ids: Array, conditions: Conditions, bits: tuple[Array, Array], arrived: Array
) -> TailStages:
    """The stages of a round's exchanges.

    Args:
      radio: network and hardware of the run.
      ids: of the participants, int32 `[K]`.
      conditions: of the round.
      bits: what comes down to the tail, and what goes up from it, `[S, K]` each; 0 of participants
        whose activation did not arrive.
      arrived: bool `[S, K]`, whose activations the server had.
    """
    computing = radio.flop_counts.tail / radio.deployment.hardware.flops[ids]

    def one(down: Array, up: Array, arrived: Array) -> Stage:
        receiving, sending = down / conditions.down_rate, up / conditions.up_rate
        limits, rows = (None, None), (arrived, arrived, conditions.reachable, jnp.bool_(True))
        stage = waited_for(*limits, computing, receiving + sending, *rows)
        return stage._replace(receiving=receiving, sending=sending)

    served = jnp.sum(arrived, axis=1, dtype=jnp.float32)
    server = served * radio.flop_counts.server_backward / radio.network.server_flops
    return TailStages(jax.vmap(one)(*bits, arrived), server)
