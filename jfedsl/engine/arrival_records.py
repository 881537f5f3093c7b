"""Records of the steps of a server that does not wait for all, and of the rounds they make up."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.engine.masks import pruned_shares
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, RunSpec, State, present_weights, weights
from jfedsl.engine.streams import MODEL_DOWN, MODEL_UP
from jfedsl.wireless.arrivals import ServerStep
from jfedsl.wireless.radio import Conditions


class StepRecord(NamedTuple):
    """What a step of the server did, `[K, ...]`; 0 of participants that it did not answer.

    Attributes:
      losses: float32, mean losses of mini-batches.
      sent: int32 bytes by column, those of the model among them.
      exchanged: bool, whose activations the server took.
      age: int32, averages that came before each part that was averaged.
      overlap: float32, of the masks of a part that was averaged with the next ones.
      clock: the step on the clock.
    """

    losses: Array
    sent: dict[str, Array]
    exchanged: Array
    age: Array
    overlap: Array
    clock: ServerStep


def round_record(
    spec: RunSpec, data: Data, state: State, conditions: Conditions, steps: StepRecord
) -> RoundRecord:
    """What a round was, but for what the algorithm reports.

    Args:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      state: after the round.
      conditions: of the round.
      steps: of the round, `[S, ...]`.
    """
    lacking, kept = pruned_shares(spec, state.clients)
    averaged, some = steps.clock.averaged, jnp.any(steps.clock.averaged)
    overlap = jnp.sum(steps.overlap) / jnp.maximum(1, jnp.sum(averaged, dtype=jnp.float32))
    error = state.aggregator.adapter_error
    whole = {MODEL_UP.column, MODEL_DOWN.column}
    share = weights(spec, data.partition, state.participants)
    return RoundRecord(
        train_loss=_mean_loss(share, steps),
        losses=steps.losses,
        sent={c: jnp.sum(x, axis=0) if c in whole else x for c, x in steps.sent.items()},
        took_part=steps.exchanged,
        has_current_model=state.has_current_model,
        conditions=conditions,
        participants=state.participants,
        pruned_fraction=jnp.mean(lacking),
        kept_fractions=jnp.mean(kept, axis=0),
        mask_overlap=jnp.where(some, overlap, -1.0),
        reported={},
        adapter_error=None if error is None else jnp.where(some, error, -1.0),
        server_steps=steps.clock,
    )


def _mean_loss(share: Array, steps: StepRecord) -> Array:
    """Weighted mean over the participants of each step, and over steps with any; else 0."""
    present = jax.vmap(partial(present_weights, share))(steps.exchanged)
    some = jnp.sum(jnp.any(steps.exchanged, axis=1), dtype=jnp.float32)
    return jnp.sum(jnp.sum(present * steps.losses, axis=1)) / jnp.maximum(1, some)
