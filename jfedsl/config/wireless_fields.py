"""The settings of the radio network, a part of `Config`."""

import dataclasses

from jfedsl.config.allowed import (
    AMOUNTS,
    POSITIVE,
    POWERS,
    Allowed,
    OneOf,
    between,
    setting,
    whole,
)
from jfedsl.wireless.allocation import ALLOCATIONS
from jfedsl.wireless.channel import FADINGS, NEAREST
from jfedsl.wireless.gauss_markov import MOST
from jfedsl.wireless.network import HARDWARE_CLASSES, NETWORKS

MASK_COMPUTES = ("dense", "ideal")
_PRESET = "default that of --network"


@dataclasses.dataclass(frozen=True)
class WirelessFields:
    """Settings of the simulated network; None leaves what `network` says."""

    network: str = setting(
        "macro_cell", "Radio network that seconds and joules are simulated for.", OneOf(NETWORKS)
    )
    network_seed: int | None = setting(
        None,
        "Seed of what the network draws: the device of each client, its place, shadowing, motion "
        "and fading, and so outages; also of the order of ranges over clients. Default --seed.",
        whole(0, 2**32 - 1),
    )
    bandwidth_hz: float | None = setting(
        None,
        f"Band in each direction, shared by the participants, Hz; {_PRESET}.",
        between(1, 1e12),
    )
    cell_radius_m: float | None = setting(
        None,
        f"Devices are spread over a disc of this radius, m; {_PRESET}.",
        Allowed(
            f"a number above {NEAREST:g}, the least distance, up to 1e6",
            lambda value: NEAREST < value <= 1e6,
        ),
    )
    shadowing_db: float | None = setting(
        None, f"Standard deviation of log-normal shadowing, dB; {_PRESET}.", between(0, 30)
    )
    fading: str | None = setting(
        None, f"Fading, drawn for every round (rician: K = 3); {_PRESET}.", OneOf(FADINGS)
    )
    fading_memory: float | None = setting(
        None,
        "Correlation of the complex gains of consecutive rounds, which fade as a Gauss-Markov "
        f"process; 0: each round fades anew; {_PRESET}.",
        Allowed(f"a number from 0 to {MOST}", lambda value: 0 <= value <= MOST),
    )
    device_speed: float | None = setting(
        None,
        "Speed of devices, m/s: straight on, mirrored at the edge of the cell and "
        f"{NEAREST:g} m from the base station; {_PRESET}.",
        between(0, 1000),
    )
    mobility_step_s: float | None = setting(
        None,
        "Seconds that devices move between two rounds, whatever the simulated time of a round; "
        f"{_PRESET}.",
        between(1e-3, 1e6),
    )
    server_power_dbm: float | None = setting(
        None, f"Power that the base station sends with, dBm; {_PRESET}.", between(0, 100)
    )
    server_flops: float | None = setting(
        None, f"FLOP/s of the server; {_PRESET}.", between(1, 1e18)
    )
    device_classes: str = setting(
        "",
        "Devices by class, as 6*phone,4*sensor, dealt out at random; instead of device_flops, "
        f"device_power_dbm and device_memory. Classes: {', '.join(HARDWARE_CLASSES)}.",
    )
    device_flops: str | None = setting(None, f"FLOP/s of devices; {_PRESET}.", AMOUNTS)
    device_power_dbm: str | None = setting(
        None, f"Power that devices send with, dBm; {_PRESET}.", POWERS
    )
    device_memory: str | None = setting(
        None,
        "Bytes of memory of devices, which have to hold parameters, gradients, optimizer state and "
        "everything the backward pass keeps of one batch; default unlimited.",
        AMOUNTS,
    )
    mask_compute: str = setting(
        "dense", "Whether single pruned weights save devices no arithmetic, or all of it.",
        OneOf(MASK_COMPUTES),
    )  # fmt: skip
    allocation: str = setting(
        "equal", "How the band is shared: equally, or so that the slowest is done soonest.",
        OneOf(ALLOCATIONS),
    )  # fmt: skip
    outage_snr_db: float | None = setting(
        None, "A device whose signal-to-noise ratio in either direction is lower, dB, is out for "
        "the round; default none is.", between(-200, 200),
    )  # fmt: skip
    outage_timeout_s: float | None = setting(
        None, "Seconds waited at least for a device that is out; default until the slowest other "
        "is done.", POSITIVE,
    )  # fmt: skip
    deadline_s: float | None = setting(
        None, "Seconds of an exchange after which the server goes on without activations that "
        "have not arrived; default it waits.", POSITIVE,
    )  # fmt: skip
