"""Radio networks and classes of client hardware by name, in SI units."""

import re
from typing import NamedTuple

import numpy as np

from jfedsl.errors import as_text, close_to
from jfedsl.wireless.channel import from_dbm

Range = tuple[float, float]


class Network(NamedTuple):
    """A base station with its server, and clients around it.

    Attributes:
      up_hz: bandwidth of the uplink, Hz, which clients share by frequency division.
      down_hz: bandwidth of the downlink, Hz, which clients share by frequency division.
      noise: spectral density of the noise power, W/Hz.
      radius: radius of the cell, m, or of each client's cell, `[C]`; None where `gain` replaces
        path loss.
      gain: range of the mean channel gain over clients; None where path loss gives it.
      shadowing_db: standard deviation of log-normal shadowing, dB; 0 for none.
      fading: one of `channel.FADINGS`; constant during a round.
      rician_factor: power of the direct path over that of all others, for fading rician.
      device_power_dbm: range of the transmit power over clients, dBm.
      server_power_dbm: transmit power of the base station over the whole band, dBm.
      device_flops: range of the speed over clients, FLOP/s.
      flops_per_cycle: FLOPs that a client's processor computes in a cycle, for its energy.
      server_flops: speed of the server, FLOP/s.
      fading_memory: correlation of the complex gains of consecutive rounds, from 0 to
        `gauss_markov.MOST`; 0 for fading that is new each round.
      device_speed: of all clients, m/s; 0 where they stand still. Only with path loss.
      mobility_step: time between two rounds in which clients move, s.
    """

    up_hz: float
    down_hz: float
    noise: float
    radius: float | np.ndarray | None
    gain: Range | None
    shadowing_db: float
    fading: str
    rician_factor: float
    device_power_dbm: Range
    server_power_dbm: float
    device_flops: Range
    flops_per_cycle: float
    server_flops: float
    fading_memory: float = 0.0
    device_speed: float = 0.0
    mobility_step: float = 1.0


THERMAL_NOISE = from_dbm(-174.0)  # W/Hz at 290 K

MACRO_CELL = Network(
    up_hz=10e6, down_hz=10e6, noise=THERMAL_NOISE, radius=1000.0, gain=None, shadowing_db=0.0,
    fading="rayleigh", rician_factor=3.0, device_power_dbm=(23.0103, 23.0103),
    server_power_dbm=46.0206, device_flops=(1e9, 1e10), flops_per_cycle=8.0, server_flops=1e13,
)  # fmt: skip
"""The setting of GAS (arXiv 2409.01251): 10 MHz, clients of 0.2 W and 1e9 to 1e10 FLOP/s, a cell of
1 km. The base station's 40 W, the server's 1e13 FLOP/s and 8 FLOPs a cycle are assumptions."""

WIDEBAND = Network(
    up_hz=100e6, down_hz=200e6, noise=3.98e-21, radius=None, gain=(1e-7, 1e-6), shadowing_db=0.0,
    fading="rayleigh", rician_factor=3.0, device_power_dbm=(20.0, 33.0), server_power_dbm=33.0,
    device_flops=(1e9, 1e10), flops_per_cycle=8.0, server_flops=1e13,
)  # fmt: skip
"""The setting of Wei and Chen's resource optimization for split federated learning: 100 MHz up and
200 MHz down, 20 to 33 dBm, Rayleigh fading of mean power 0.1e-6 to 1e-6. Speeds are assumptions."""

SMALL_CELL = Network(
    up_hz=50e6, down_hz=50e6, noise=THERMAL_NOISE, radius=1000.0, gain=None, shadowing_db=0.0,
    fading="rayleigh", rician_factor=3.0, device_power_dbm=(20.0, 23.0103),
    server_power_dbm=24.7712, device_flops=(1e8, 2e9), flops_per_cycle=1.0, server_flops=1e13,
)  # fmt: skip
"""Similar to AdaptSFL (arXiv 2403.13101): 50 MHz, clients of 0.1 to 0.2 W and 0.1 to 2 GHz at
1 FLOP a cycle, a base station of 0.3 W. The server's speed is an assumption."""

NETWORKS: dict[str, Network | None] = {
    "macro_cell": MACRO_CELL,
    "wideband": WIDEBAND,
    "small_cell": SMALL_CELL,
    "none": None,
}


class HardwareClass(NamedTuple):
    """A class of client hardware.

    Attributes:
      flops: speed, FLOP/s.
      power_dbm: transmit power, dBm.
      memory: memory for training, bytes.
    """

    flops: float
    power_dbm: float
    memory: float


# Assumptions: orders of magnitude of what such hardware can spare for training.
HARDWARE_CLASSES = {
    "phone": HardwareClass(1e10, 23.0, 2e9),
    "camera": HardwareClass(3e9, 20.0, 5e8),
    "sensor": HardwareClass(1e9, 14.0, 1e8),
}


def hardware_counts(text: str) -> list[tuple[int, str]]:
    """Number and class of devices, from text such as `6*phone,4*sensor`.

    >>> hardware_counts("6*phone,4*sensor")
    [(6, 'phone'), (4, 'sensor')]

    Raises:
      ValueError: it is something else. The text follows "--device_classes must be" in an error.
    """
    counts = []
    for part in map(str.strip, text.split(",")):
        match = re.fullmatch(r"(\d{1,10})\s*\*\s*(\w+)", part)
        if match is None or match[2] not in HARDWARE_CLASSES:
            allowed = f"counts of {', '.join(HARDWARE_CLASSES)}, such as 6*phone,4*sensor"
            close = close_to(part.partition("*")[2].strip(), HARDWARE_CLASSES)
            raise ValueError(f"{allowed}, not {as_text(part) or 'an empty part'}{close}")
        counts.append((int(match[1]), match[2]))
    return counts
