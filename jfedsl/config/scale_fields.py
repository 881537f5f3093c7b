"""The settings of where and how a run is computed, a part of `Config`."""

import dataclasses
import re

from jfedsl.config.allowed import COUNT, FOLDER, Allowed, OneOf, setting, whole
from jfedsl.engine.client_memory import CLIENT_STATES
from jfedsl.sharding.collectives import COLLECTIVE_BITS

COMPUTE_DTYPES = ("float32", "bfloat16")
BY_CLUSTER = "cluster"


def _is_coordinator(text: str) -> bool:
    address = re.fullmatch(r"\S+:([0-9]{1,5})", text)
    return text in ("", BY_CLUSTER) or (address is not None and 0 < int(address[1]) < 2**16)


@dataclasses.dataclass(frozen=True)
class ScaleFields:
    """Settings of devices, processes and memory."""

    devices: int | None = setting(
        None, "Devices of each process that clients are spread over; default all, or one with an "
        "algorithm in which one client computes at a time.", COUNT, may_change_on_resume=True,
    )  # fmt: skip
    coordinator: str = setting(
        "",
        "For a run of several processes HOST:PORT of the first, the same in all, with "
        f"--processes and --process; or {BY_CLUSTER}: all three as SLURM, Open MPI or a TPU slice "
        "tells.",
        Allowed(f"HOST:PORT, a port from 1 to 65535, or {BY_CLUSTER}", _is_coordinator),
        may_change_on_resume=True,
    )
    processes: int | None = setting(None, "How many processes.", COUNT, may_change_on_resume=True)
    process: int | None = setting(
        None, "Number of this process.", whole(0), may_change_on_resume=True
    )
    collective_bits: int = setting(
        32, "Bits an entry of client-side models where they are averaged across processes.",
        Allowed(
            f"one of {', '.join(map(str, COLLECTIVE_BITS))}",
            lambda value: value in COLLECTIVE_BITS,
        ),
    )  # fmt: skip
    client_state: str = setting(
        "resident", "Where clients that do not take part keep optimizer and compressor states: on "
        "the devices, on the host, or nowhere.", OneOf(CLIENT_STATES),
    )  # fmt: skip
    client_chunk: int | None = setting(
        None, "Clients whose layers run at once on a device; 1 loops. Default by platform and "
        "model.", COUNT,
    )  # fmt: skip
    remat_clients: bool = setting(
        False,
        "Clients compute their forward pass twice, so that less memory waits; at most a quarter "
        "of a device's participants is then computed at once.",
        Allowed("true or false", lambda value: isinstance(value, bool)),
    )
    compute_dtype: str = setting(
        "float32", "Of activations and products; parameters and moments are float32.",
        OneOf(COMPUTE_DTYPES),
    )  # fmt: skip
    compilation_cache: str = setting(
        "~/.cache/jfedsl", "Folder of compiled programs, kept between runs; empty for none.",
        FOLDER, may_change_on_resume=True,
    )  # fmt: skip
