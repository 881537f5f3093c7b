"""What a round costs on devices and links that are not here, from numbers measured here."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scaling_runs import Case, together

from jfedsl.build import build
from jfedsl.config import Config

_FLOAT = 4  # bytes
_HEADERS = 8 / 512  # bytes an entry: two float32 a bucket


class Part(NamedTuple):
    """One side of the model: its entries, in so many arrays."""

    entries: int
    arrays: int

    @property
    def bytes(self) -> int:
        """As float32."""
        return self.entries * _FLOAT


class Link(NamedTuple):
    """Between any two devices: bytes a second each way, and seconds until the first arrives."""

    bandwidth: float
    latency: float

    def all_reduce(self, devices: int, part: Part) -> float:
        """Seconds to sum up a part, array by array, around a ring."""
        steps = 2 * (devices - 1)
        return steps * (part.bytes / devices / self.bandwidth + part.arrays * self.latency)


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Seconds of a round, S exchanges and `1 / every` averagings of clients' models.

    An exchange takes a fixed time, time for each client on the fullest device (its share of the
    server's work included), and a sum of the server's gradient over devices; an averaging takes a
    sum of the clients' part. Nothing overlaps.
    """

    fixed: float
    per_client: float
    server: Part
    client: Part
    exchanges: int
    every: int

    def seconds(self, participants: int, devices: int, link: Link) -> float:
        """Of a round."""
        computing = self.fixed + self.per_client * -(-participants // devices)
        exchange = computing + link.all_reduce(devices, self.server)
        return self.exchanges * exchange + link.all_reduce(devices, self.client) / self.every


def fitted(
    measured: dict[int, float], parts: tuple[Part, Part], exchanges: int, every: int
) -> CostModel:
    """The model whose one-device rounds are nearest the measured ones, by their squares.

    Args:
      measured: seconds of a round by its participants.
      parts: the client's and the server's.
      exchanges: in a round.
      every: rounds in a period.
    """
    slope, start = np.polyfit(list(measured), np.array(list(measured.values())) / exchanges, 1)
    return CostModel(float(start), float(slope), parts[1], parts[0], exchanges, every)


def parts_of(model: str, dataset: str, data_dir: str) -> tuple[Part, Part]:
    """The client's and the server's part of a model at its cut."""
    config = Config(model=model, dataset=dataset, data_dir=data_dir, clients=2, partition="iid")
    experiment = build(config)
    params, cut = experiment.initial.params, experiment.scheme.cut
    client, server = (jax.tree.leaves(side) for side in (params[:cut], params[cut:]))
    return (
        Part(sum(x.size for x in client), len(client)),
        Part(sum(x.size for x in server), len(server)),
    )


def loopback_link(cores_each: int) -> Link:
    """Between two processes of this machine, from sums of a little and of much."""
    sizes = (1 << 10, 1 << 22)
    script = Path(__file__).with_name("all_reduce.py")
    case = Case(clients=2, processes=2, cores_each=cores_each)
    with tempfile.TemporaryDirectory() as folder:
        together([str(script), f"--bytes={','.join(map(str, sizes))}"], case, Path(folder))
        lines = (Path(folder) / "0.out").read_text().splitlines()
    found = json.loads(next(line for line in lines if line.startswith("{")))
    little, much = (found[str(size)] for size in sizes)
    bandwidth = (sizes[1] - sizes[0]) / (much - little)
    return Link(bandwidth, max(0.0, little - sizes[0] / bandwidth) / 2)


def crossing(processes: int, parts: tuple[Part, Part], exchanges: int, bits: int) -> float:
    """Bytes of a round of one period that all processes together send.

    The server's gradient as float32, the clients' part in so many bits an entry.
    """
    client, server = parts
    each = _FLOAT if bits == 32 else bits / 8 + _HEADERS
    return 2 * (processes - 1) * (exchanges * server.bytes + client.entries * each)


def errors(rows: Sequence[tuple[float, float]]) -> float:
    """The greatest relative error of predictions, given (predicted, measured)."""
    return max(abs(predicted / measured - 1) for predicted, measured in rows)
