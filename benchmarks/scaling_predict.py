"""Predicted rounds, from what programs cost and what devices do."""

from typing import NamedTuple

from scaling_hardware import Hardware
from scaling_programs import Laws, Size


class Efficiency(NamedTuple):
    """What is assumed of a device.

    Attributes:
      peak: fraction of the peak of products.
      bandwidth: fraction of the bandwidth of its memory.
      kernel: seconds to start a kernel.
    """

    peak: float
    bandwidth: float
    kernel: float


class Prediction(NamedTuple):
    """A predicted round.

    Attributes:
      seconds: of the round.
      parts: seconds of each part of it.
      memory: bytes on each device.
      host_memory: bytes on each host.
      fits: whether both are there.
      of_peak: fraction of the devices' peak that its products take.
    """

    seconds: float
    parts: dict[str, float]
    memory: float
    host_memory: float
    fits: bool
    of_peak: float

    @property
    def bottleneck(self) -> str:
        """What takes longest."""
        return max(self.parts, key=lambda name: self.parts[name]) if self.fits else "memory"


def predict(
    laws: Laws, hardware: Hardware, assumed: Efficiency, size: Size, row: int, dtype: str
) -> Prediction:
    """The prediction of a round.

    Args:
      laws: costs of rounds.
      hardware: that it runs on.
      assumed: of each device.
      size: of the run.
      row: bytes of a client's memory that goes to the host in every round; 0 if none does.
      dtype: of products.
    """
    costs, devices = laws.costs(size), size.devices
    moved = 2 * row * size.on_device * (size.participants < size.clients)
    leaving = row * size.participants * (moved > 0)
    collectives = dict(costs.collectives)
    if leaving:  # each device receives all rows that leave
        runs, sent = collectives.get("all-gather", (0.0, 0.0))
        collectives["all-gather"] = runs + 1, sent + leaving
    latency, sending = (
        sum(seconds)
        for seconds in zip(
            (0.0, 0.0),
            *(hardware.collective(kind, devices, *of) for kind, of in collectives.items()),
            strict=True,
        )
    )
    parts = {
        "arithmetic": costs.flops / hardware.peak[dtype] / assumed.peak,
        "memory traffic": costs.traffic / hardware.bandwidth / assumed.bandwidth,
        "kernel starts": costs.starts * assumed.kernel,
        "collectives: latency": latency,
        "collectives: bytes": sending,
        "host link": (moved / 2 + leaving) / hardware.host_link,
    }
    on_device = max(parts["arithmetic"], parts["memory traffic"]) + parts["kernel starts"]
    seconds = max(on_device + latency + sending, parts["host link"])
    memory, host_memory = costs.memory + moved, float(row * size.clients)
    fits = memory <= hardware.memory and host_memory <= hardware.host_memory
    of_peak = costs.flops / hardware.peak[dtype] / seconds
    return Prediction(seconds, parts, memory, host_memory, fits, of_peak)
