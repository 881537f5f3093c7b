"""Many rounds in one compiled call: a loop with a traced trip count and fixed-size buffers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from jfedsl.engine.exchange import Reported
from jfedsl.engine.state import Data, RunSpec, State
from jfedsl.engine.streams import LOCAL, Stream
from jfedsl.wireless.arrivals import ServerStep
from jfedsl.wireless.radio import Conditions


class RoundRecord(struct.PyTreeNode):
    """What one round cost and achieved; stacked on a leading axis for many rounds.

    Attributes:
      train_loss: float32, weighted mean over the round's exchanges.
      losses: float32 `[S, K]`, per exchange and participant.
      sent: int32 bytes by the column of each stream: `[S, K]` for messages of an exchange; `[K]`
        for the model, 0 unless a period starts or ends.
      took_part: bool `[S, K]`, whether a participant's update counted. Where it did not, 0 stands
        for its loss.
      has_current_model: bool `[K]`, which hold the period's model, compute and send.
      conditions: of the network, None without one.
      participants: int32 `[K]`.
      pruned_fraction: float32, of prunable client-side weights, mean over participants.
      kept_fractions: float32, one for each of the pruner's names, mean over participants.
      mask_overlap: float32, how much of a participant's masks stays at the end of a period, mean
        over participants; -1 in other rounds.
      reported: numbers `[S, K]` that the algorithm reports of participants, by name.
      adapter_error: float32, of the average of adapters at the end of a period, see
        `adapter_averaging.relative_error`; -1 in other rounds. None where it is always 0.
      server_steps: on the clock, `[S, ...]`, where the server does not wait for all; else None.
    """

    train_loss: Array
    losses: Array
    sent: dict[str, Array]
    took_part: Array
    has_current_model: Array
    conditions: Conditions | None
    participants: Array
    pruned_fraction: Array
    kept_fractions: Array
    mask_overlap: Array
    reported: dict[str, Reported]
    adapter_error: Array | None = None
    server_steps: ServerStep | None = None


# Fields that are not by participant.
OF_A_ROUND = ("train_loss", "pruned_fraction", "kept_fractions", "mask_overlap", "adapter_error")
Round = Callable[[Data, Array, State], tuple[State, RoundRecord]]
Rounds = Callable[[Data, Array, State, Any], tuple[State, RoundRecord]]


def compile_rounds(
    one: Round, capacity: int, options: dict[str, bool | int] | None = None
) -> Rounds:
    """A compiled `(data, key, state, count) -> (state, records)` that runs `count` rounds.

    One compilation serves every count; each round computes the same bits however the rounds are
    spread over calls. The state passed in is donated.

    Args:
      one: a round `(data, run key, state) -> (state, record)`.
      capacity: the greatest count; the records are `[capacity, ...]`, those past `count` zero.
      options: of the compiler, see `compiler_options.options_for`.
    """
    one = jax.jit(one)  # traced once for its shapes and for the loop

    def run(data: Data, key: Array, state: State, count: Array) -> tuple[State, RoundRecord]:
        shapes = jax.eval_shape(one, data, key, state)[1]
        buffers = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

        def body(i: Array, carry: tuple[State, RoundRecord]) -> tuple[State, RoundRecord]:
            state, record = one(data, key, carry[0])
            return state, jax.tree.map(lambda b, x: b.at[i].set(x), carry[1], record)

        return lax.fori_loop(0, count, body, (state, buffers))

    return jax.jit(run, donate_argnums=2, compiler_options=options or None)


def next_tested(rounds: int, every: int, period: int) -> int:
    """The next round to test: the end of the period that the next multiple of `every` falls in.

    Only at the end of a period does the model exist that a test is of, and is its upload counted.

    >>> [next_tested(rounds, 5, 3) for rounds in (0, 5, 6, 12, 15)]
    [6, 6, 12, 15, 21]

    Args:
      rounds: completed so far.
      every: rounds between tests.
      period: rounds in an aggregation period.
    """
    passed = rounds // every * every
    ends = (-(-due // period) * period for due in (passed, passed + every))
    return next(end for end in ends if end > rounds)


def sent_bytes(spec: RunSpec, record: RoundRecord, i: int) -> dict[str, int]:
    """Bytes that passed in a round, by the column of each stream; a broadcast message counts once.

    Args:
      spec: functions and static numbers of the run.
      record: of many rounds, NumPy arrays.
      i: which of them.
    """

    def total(stream: Stream) -> int:
        counts = record.sent[stream.column][i]
        counts = counts.max(axis=-1) if stream.broadcast else counts
        return int(np.sum(counts, dtype=np.int64))

    streams = [s for s in spec.algorithm.streams if s.direction != LOCAL]
    return {stream.column: total(stream) for stream in streams}
