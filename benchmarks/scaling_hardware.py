"""Accelerators and the links between them, by published numbers.

Speeds are peaks in one direction. Sources, all public:

- TPU v5e, v5p: docs.cloud.google.com/tpu/docs/v5e and /v5p, the tables of key specifications:
  bfloat16 peak, memory and its bandwidth, bidirectional bandwidth of the inter-chip interconnect
  (400 GB/s over 4 ports and 1200 GB/s over 6, so 50 and 100 GB/s a port in one direction),
  topology, chips a pod (256 and 8960), memory of a host (512 GiB for 8 chips, 448 GB for 4), and
  the network between pods (two 100 Gbit/s adapters for 8 chips, 50 Gbit/s a chip).
- H100 SXM: NVIDIA's data sheet of the H100: dense TF32 and bfloat16 peaks (half of those with
  sparsity), memory bandwidth, NVLink 900 GB/s and PCIe 128 GB/s in both directions together; data
  sheet of the DGX H100: 8 GPUs, a 400 Gbit/s InfiniBand adapter for each, 2 TB of memory.
- Latency of the H100: the tables of NCCL's src/graph/tuning.cc, tree with protocol LL: 6.8 us for
  a collective, 0.6 us a step over NVLink and 5 us over a network.
- ASSUMED, as no vendor publishes it: 1 us a hop between neighbouring TPUs, 5 us for a collective;
  50 us a step over the network between pods; 16 GB/s between a TPU and its host. The order of
  magnitude is that of "How To Scale Your Model", jax-ml.github.io/scaling-book/tpus.
"""

import math
from typing import NamedTuple

_GIB, _GBIT = 2**30, 1e9 / 8
# Of these, devices that are close act together, and each sends a part of the data further on.
_IN_PARTS = frozenset({"all-reduce", "all-gather", "reduce-scatter"})


class Level(NamedTuple):
    """Links among groups of devices.

    Attributes:
      devices: most devices that they connect.
      axes: of a torus; 0 if each device reaches every other one over a switch.
      bandwidth: bytes a second that a device sends over one port; a torus has two ports an axis.
      hop: seconds of a step of a message.
      wraps_at: least length of an axis of the torus that closes to a ring.
    """

    devices: float
    axes: int
    bandwidth: float
    hop: float
    wraps_at: int = 0

    def speed(self, devices: int) -> float:
        """Bytes a second that each of so many devices sends."""
        closed = self.axes and self.length(devices) >= self.wraps_at
        return self.bandwidth * max(1, self.axes) * (2 if closed else 1)

    def steps(self, devices: int) -> float:
        """Steps of a message that reaches all of so many devices."""
        if not self.axes:
            return math.ceil(math.log2(devices))  # a tree
        length = self.length(devices)
        along = length / 2 if length >= self.wraps_at else length - 1
        return self.axes * along

    def length(self, devices: int) -> float:
        """Devices on an axis of the torus."""
        return round(float(devices ** (1 / self.axes)), 6)


class Hardware(NamedTuple):
    """An accelerator, in a system of many.

    Attributes:
      peak: FLOP/s of products, by the run's --compute_dtype.
      bandwidth: bytes a second of its memory.
      memory: bytes of its memory.
      host_link: bytes a second between it and its host, in one direction.
      host_memory: bytes of a host's memory.
      hosted: accelerators of a host.
      start: seconds before a collective begins.
      levels: links, the closest ones first.
    """

    peak: dict[str, float]
    bandwidth: float
    memory: float
    host_link: float
    host_memory: float
    hosted: int
    start: float
    levels: tuple[Level, ...]

    def collective(self, kind: str, devices: int, runs: float, size: float) -> tuple[float, float]:
        """Seconds of latency and of sending, of collectives over all devices.

        Args:
          kind: such as all-reduce.
          devices: among which it is.
          runs: how many there are.
          size: bytes of all their results on one device.
        """
        if devices == 1:
            return 0.0, 0.0
        latency, sending, left, share = self.start, 0.0, devices, 1
        ways = 2 if kind == "all-reduce" else 1  # there and back
        whole = size * devices if kind == "reduce-scatter" else size
        for level in self.levels:
            among = int(min(left, max(1.0, level.devices / share)))
            if among > 1:
                latency += ways * level.steps(among) * level.hop
                part = whole / share if kind in _IN_PARTS else whole
                sending += ways * part * (among - 1) / among / level.speed(among)
            left, share = math.ceil(left / among), share * among
        return runs * latency, sending


_V5E_POD = Level(256, 2, 50e9, 1e-6, wraps_at=16)
_V5P_POD = Level(8960, 3, 100e9, 1e-6, wraps_at=4)
HARDWARE = {
    "v5e": Hardware(
        {"float32": 197e12, "bfloat16": 197e12}, 819e9, 16 * _GIB, 16e9, 512 * _GIB, 8, 5e-6,
        (_V5E_POD, Level(math.inf, 0, 200 * _GBIT / 8, 50e-6)),
    ),
    "v5p": Hardware(
        {"float32": 459e12, "bfloat16": 459e12}, 2765e9, 95 * _GIB, 16e9, 448e9, 4, 5e-6,
        (_V5P_POD, Level(math.inf, 0, 50 * _GBIT, 50e-6)),
    ),
    "h100": Hardware(
        {"float32": 494.7e12, "bfloat16": 989.4e12}, 3350e9, 84942979072, 64e9, 2e12, 8, 6.8e-6,
        (Level(8, 0, 450e9, 0.6e-6), Level(math.inf, 0, 400 * _GBIT, 5e-6)),
    ),
}  # fmt: skip
