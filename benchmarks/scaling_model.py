"""What a round costs on devices and links that are not here, from numbers measured here."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from scaling_runs import Case, together

from jfedsl.config.flags import define_flags, from_flags
from jfedsl.run.assemble import build

_FLOAT = 4  # bytes
_HEADERS = 8 / 512  # bytes an entry: two float32 a bucket


class Messages(NamedTuple):
    """Float32 of what devices sum up, each in one message.

    Attributes:
      gradient: of the server's part, in every exchange.
      models: of the clients' part, in every period.
      weights: that go with these, where clients are pruned.
    """

    gradient: int
    models: int
    weights: int


class Link(NamedTuple):
    """Between any two devices: bytes a second each way, and seconds until the first arrives."""

    bandwidth: float
    latency: float

    def all_reduce(self, devices: int, floats: int) -> float:
        """Seconds to sum up, around a ring."""
        steps = 2 * (devices - 1)
        return steps * (floats * _FLOAT / devices / self.bandwidth + self.latency)

    def all_gather(self, devices: int) -> float:
        """Seconds to bring together a little from each, around a ring."""
        return (devices - 1) * self.latency


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Seconds of a round: S exchanges, `1 / every` averagings of clients' models, a record.

    An exchange takes a fixed time, time for each client on the fullest device (its share of the
    server's work included), and a sum over devices; so does an averaging, and the record of a round
    is brought together. Nothing overlaps.
    """

    fixed: float
    per_client: float
    messages: Messages
    exchanges: int
    every: int

    def seconds(self, participants: int, devices: int, link: Link) -> float:
        """Of a round."""
        computing = self.fixed + self.per_client * -(-participants // devices)
        exchange = computing + link.all_reduce(devices, self.messages.gradient)
        averaging = link.all_reduce(devices, self.messages.models + self.messages.weights)
        return self.exchanges * exchange + averaging / self.every + link.all_gather(devices)


def fitted(measured: dict[int, float], messages: Messages, exchanges: int, every: int) -> CostModel:
    """The model whose one-device rounds are nearest the measured ones, by their squares.

    Args:
      measured: seconds of a round by its participants.
      messages: of the run.
      exchanges: in a round.
      every: rounds in a period.
    """
    slope, start = np.polyfit(list(measured), np.array(list(measured.values())) / exchanges, 1)
    return CostModel(float(start), float(slope), messages, exchanges, every)


def messages_of(arguments: Sequence[str]) -> Messages:
    """What devices sum up in a run with these flags."""
    values = flags.FlagValues()
    define_flags(values)
    values(["train.py", *arguments])
    experiment = build(from_flags(values))
    params, spec = experiment.initial.params, experiment.spec
    client, server = (
        sum(x.size for x in jax.tree.leaves(side))
        for side in (params[: spec.cut], params[spec.cut :])
    )
    return Messages(server, client, client if spec.pruner.names else 0)


def loopback_bandwidth(cores_each: int) -> float:
    """Bytes a second between two processes of this machine, from sums of a little and of much."""
    sizes = (1 << 10, 1 << 22)
    script = Path(__file__).with_name("all_reduce.py")
    case = Case(clients=2, processes=2, cores_each=cores_each)
    with tempfile.TemporaryDirectory() as folder:
        together([str(script), f"--bytes={','.join(map(str, sizes))}"], case, Path(folder))
        lines = (Path(folder) / "0.out").read_text().splitlines()
    found = json.loads(next(line for line in lines if line.startswith("{")))
    little, much = (found[str(size)] for size in sizes)
    return float((sizes[1] - sizes[0]) / (much - little))


def link_of(cost: CostModel, seconds: float, bandwidth: float) -> Link:
    """The link whose latency makes two clients on two devices take so many seconds a round.

    With it comes what else a message costs there, such as waking up who waits for it.
    """
    at_once, slow = (cost.seconds(2, 2, Link(bandwidth, latency)) for latency in (0.0, 1.0))
    return Link(bandwidth, max(0.0, (seconds - at_once) / (slow - at_once)))


def crossing(processes: int, messages: Messages, exchanges: int, bits: int) -> float:
    """Bytes of a round of one period that all processes together send.

    The server's gradient as float32, the clients' part in so many bits an entry; weights that go
    with that only as float32, as packed sums do without.
    """
    models = messages.models * (bits / 8 + _HEADERS)
    if bits == 32:
        models = (messages.models + messages.weights) * _FLOAT
    return 2 * (processes - 1) * (exchanges * messages.gradient * _FLOAT + models)


def errors(rows: Sequence[tuple[float, float]]) -> float:
    """The greatest relative error of predictions, given (predicted, measured)."""
    return max(abs(predicted / measured - 1) for predicted, measured in rows)
