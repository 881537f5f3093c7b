"""One exchange: what its steps share, and what comes out of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.engine.state import Client, Data, RunSpec, Server
from jfedsl.pruning.pruner import ClientForward
from jfedsl.wireless.radio import Conditions


class Availability(NamedTuple):
    """Which participants can take part in an exchange, where not all can.

    Attributes:
      has_current_model: bool `[K]`, which hold the model of the period, compute and send.
      conditions: of the network in this round.
    """

    has_current_model: Array
    conditions: Conditions

    def arrived(self, deadline: float | None, sent_bytes: Array) -> Array:
        """Whose messages, of `sent_bytes[K]`, reach the server in time; bool `[K]`."""
        there = self.has_current_model & self.conditions.reachable
        if deadline is None:
            return there
        sending = 8.0 * sent_bytes.astype(jnp.float32) / self.conditions.up_rate
        return there & (self.conditions.forward + sending <= deadline)


class Exchange(NamedTuple):
    """What the steps of one exchange share.

    Attributes:
      spec: functions and static numbers of the run.
      data: training data of all clients.
      run_key: key of the run.
      key: key of this exchange.
      client_keys: `[P]`, the same folded with each client's number.
      step: int32 scalar, exchanges of the run before this one.
      forwards: how the clients of each of the pruner's groups compute their layers.
      weights: float32 `[K]`, of the participants in every mean, sum 1.
      availability: which participants can take part; None: all.
      aggregated: parameters of the aggregator, which all participants received at the start of the
        period, or changes that make them up; None where they did not.
    """

    spec: RunSpec
    data: Data
    run_key: Array
    key: Array
    client_keys: Array
    step: Array
    forwards: Sequence[ClientForward]
    weights: Array
    availability: Availability | None
    aggregated: Any = None

    def has_current_model(self) -> Array:
        """Which participants hold the model of the period, bool `[K]`."""
        if self.availability is None:
            return jnp.ones(self.weights.shape, bool)
        return self.availability.has_current_model


class Reported(NamedTuple):
    """A number that an algorithm reports of participants, for a column of metrics.csv.

    Attributes:
      values: float32 `[P]`.
      valid: bool `[P]`, which participants have one.
    """

    values: Array
    valid: Array


class Outcome(NamedTuple):
    """What an algorithm makes of an exchange.

    Attributes:
      server: the server after it.
      clients: the participants after it, `[P, ...]`; those that took no part are put back.
      losses: float32 `[P]`, mean loss of each client's mini-batch before the step.
      took_part: bool `[K]`, whose update counts.
      sent: int32 `[P]` bytes of each stream of the exchange, by its column.
      reported: what the algorithm declares in its `reports`, by name.
    """

    server: Server
    clients: Client
    losses: Array
    took_part: Array
    sent: dict[str, Array]
    reported: Mapping[str, Reported] = {}


class ExchangeRecord(struct.PyTreeNode):
    """What one exchange cost, where participants compute.

    Attributes:
      losses: float32 `[P]`, mean loss of each mini-batch; 0 for a participant that took no part.
      took_part: bool `[K]`.
      sent: int32 `[P]` bytes of each stream of the exchange, by its column.
      reported: by name; nothing of a participant that took no part.
    """

    losses: Array
    took_part: Array
    sent: dict[str, Array]
    reported: dict[str, Reported]
