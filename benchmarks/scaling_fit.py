"""A model of the seconds of a round, to predict them on other devices and connections."""

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

_FLOAT = 4  # bytes of a float32
_HEADERS = 8 / 512  # bytes of headers an entry: two float32 a bucket of 512


class Messages(NamedTuple):
    """Numbers of float32 that are summed over devices.

    Attributes:
      gradient: server-side gradient, summed in every exchange.
      models: client-side models, summed in every period.
      weights: sums of weights for masked means, where clients are pruned; summed in every period.
    """

    gradient: int
    models: int
    weights: int


class Connection(NamedTuple):
    """The connection between any two devices.

    Attributes:
      bandwidth: bytes a second in each direction.
      latency: seconds of an empty message.
    """

    bandwidth: float
    latency: float

    def all_reduce(self, devices: int, floats: int) -> float:
        """Seconds to sum `floats` float32 over devices around a ring."""
        steps = 2 * (devices - 1)
        return steps * (floats * _FLOAT / devices / self.bandwidth + self.latency)

    def all_gather(self, devices: int) -> float:
        """Seconds to gather a small array of each device around a ring."""
        return (devices - 1) * self.latency


@dataclasses.dataclass(frozen=True)
class CostModel:
    """A model of the seconds of a round, in which nothing overlaps.

    An exchange takes a fixed time, a time for each client on the device with the most clients
    (including its part of the server's work), and a sum over devices. An averaging takes a sum over
    devices. At the end the record of the round is gathered.

    Attributes:
      fixed: seconds of an exchange without clients.
      per_client: seconds that each client adds to an exchange.
      messages: numbers of float32 that are summed.
      exchanges: number of exchanges in a round.
      every: number of rounds in a period.
    """

    fixed: float
    per_client: float
    messages: Messages
    exchanges: int
    every: int

    def seconds(self, participants: int, devices: int, connection: Connection) -> float:
        """Predicted seconds of a round."""
        computing = self.fixed + self.per_client * -(-participants // devices)
        exchange = computing + connection.all_reduce(devices, self.messages.gradient)
        averaging = connection.all_reduce(devices, self.messages.models + self.messages.weights)
        return self.exchanges * exchange + averaging / self.every + connection.all_gather(devices)


def fitted(measured: dict[int, float], messages: Messages, exchanges: int, every: int) -> CostModel:
    """The least-squares fit of the model to rounds on one device.

    Args:
      measured: seconds of a round by number of participants.
      messages: numbers of float32 that are summed.
      exchanges: number of exchanges in a round.
      every: number of rounds in a period.
    """
    slope, intercept = np.polyfit(list(measured), np.array(list(measured.values())) / exchanges, 1)
    return CostModel(float(intercept), float(slope), messages, exchanges, every)


def messages_of(arguments: Sequence[str]) -> Messages:
    """The messages of a run with the flags `arguments`."""
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
    """Bytes a second between two processes of this machine, from sums of two sizes."""
    sizes = (1 << 10, 1 << 22)
    script = Path(__file__).with_name("all_reduce.py")
    case = Case(clients=2, processes=2, cores_each=cores_each)
    with tempfile.TemporaryDirectory() as folder:
        together([str(script), f"--bytes={','.join(map(str, sizes))}"], case, Path(folder))
        lines = (Path(folder) / "0.out").read_text().splitlines()
    seconds = json.loads(next(line for line in lines if line.startswith("{")))
    small, large = (seconds[str(size)] for size in sizes)
    return float((sizes[1] - sizes[0]) / (large - small))


def connection_of(cost: CostModel, seconds: float, bandwidth: float) -> Connection:
    """The connection with which two clients on two devices take `seconds` a round.

    Its latency includes all fixed costs of a message, such as waking up the receiver.
    """
    without, with_latency = (
        cost.seconds(2, 2, Connection(bandwidth, latency)) for latency in (0.0, 1.0)
    )
    return Connection(bandwidth, max(0.0, (seconds - without) / (with_latency - without)))


def sent_bytes(processes: int, messages: Messages, exchanges: int, bits: int) -> float:
    """Bytes that all processes together send in a round that is a period.

    The server-side gradient is sent as float32, client-side models with `bits` bits an entry. Sums
    of weights are sent only with float32; quantized sums do not need them.
    """
    models = messages.models * (bits / 8 + _HEADERS)
    if bits == 32:
        models = (messages.models + messages.weights) * _FLOAT
    return 2 * (processes - 1) * (exchanges * messages.gradient * _FLOAT + models)


def largest_error(rows: Sequence[tuple[float, float]]) -> float:
    """The largest relative error of predictions, from pairs (predicted, measured)."""
    return max(abs(predicted / measured - 1) for predicted, measured in rows)
