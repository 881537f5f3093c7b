"""Streams: the kinds of messages of an algorithm, and what follows for flags and bytes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jfedsl.keys import Stage

UP, DOWN, LOCAL = "up", "down", "local"


def _in_every_exchange(spec: Any, exchanges: int) -> int:
    del spec
    return exchanges


def _whole_batch(spec: Any) -> int:
    return int(spec.batch_size)


class Stream(NamedTuple):
    """One kind of message.

    It carries either values of a mini-batch, in an exchange, or the client-side model, once a
    period. Nothing else is sent. A config refuses an algorithm with a stream that is not
    `of_batch`, unless it is `MODEL_UP` or `MODEL_DOWN` as they are, or `local`.

    Attributes:
      name: of the flag that compresses it, such as `smashed`, unless `flag` names another one.
      direction: `up` from clients to the server, `down` to clients, or `local`: compressed where it
        is computed, and never sent.
      of_batch: whether it carries values of a mini-batch, sent in an exchange; else it carries the
        client-side model, sent once a period.
      stage: number of its random draws in an exchange: a `Stage`, or from 16 on for an algorithm's
        own streams.
      labels: whether the labels of the mini-batch travel along.
      at_tail: whether it carries what passes between the server's layers and the tail behind them,
        not what passes at the cut.
      broadcast: whether one message serves all participants at once.
      feedback: whether a compressor may remember what a message lacked and add it to the next one.
      flag: the flag that compresses it; "" for `name`.
      messages: from a `RunSpec`, in how many of the first so many exchanges of a run a client sends
        or receives one.
      rows: from a `RunSpec`, the number of examples of a mini-batch that a message covers.
      idle: from a config, why what compresses the stream has no effect, such as that no message is
        ever sent "with --align_every=0"; None where it has one.
    """

    name: str
    direction: str
    of_batch: bool
    stage: int = 0
    labels: bool = False
    at_tail: bool = False
    broadcast: bool = False
    feedback: bool = True
    flag: str = ""
    messages: Callable[[Any, int], int] = _in_every_exchange
    rows: Callable[[Any], int] = _whole_batch
    idle: Callable[[Any], str | None] = lambda config: None

    @property
    def column(self) -> str:
        """Name of its bytes in records and, with `_bytes` added, in metrics.csv."""
        ends = self.name.endswith(f"_{self.direction}")
        return self.name if ends else f"{self.name}_{self.direction}"

    @property
    def carries_activations(self) -> bool:
        """Whether it carries activations, which go up at the cut and down to the tail."""
        return self.of_batch and (self.direction == UP) != self.at_tail

    @property
    def compressor(self) -> str:
        """Name of the flag that compresses it."""
        return self.flag or self.name

    @property
    def is_supported(self) -> bool:
        """Whether the engine knows when it is sent and what it carries."""
        as_is = self._replace(idle=MODEL_UP.idle)
        return self.of_batch or self.direction == LOCAL or as_is in (MODEL_UP, MODEL_DOWN)


SMASHED = Stream("smashed", UP, of_batch=True, stage=Stage.SMASHED, labels=True)
CUT_GRADIENT = Stream("cut_gradient", DOWN, of_batch=True, stage=Stage.CUT_GRADIENT)
CLIENT_GRADIENT = Stream("client_gradient", LOCAL, of_batch=False, stage=Stage.CLIENT_GRADIENT)
MODEL_UP = Stream("model_up", UP, of_batch=False)
# A change since the last arrival already holds all that has not arrived: no feedback is needed.
MODEL_DOWN = Stream("model_down", DOWN, of_batch=False, feedback=False)

SPLIT_STREAMS = (SMASHED, CUT_GRADIENT, CLIENT_GRADIENT, MODEL_UP, MODEL_DOWN)
