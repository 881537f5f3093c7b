"""What a run says of its clients, and of the devices that they are spread over."""

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.config.cuts import parse
from jfedsl.engine.parts import cuts_of
from jfedsl.engine.state import RunSpec


def layout_of(config: Config, spec: RunSpec, pooled: bool = False) -> str:
    """Clients, devices, and how many clients a device has and computes at once, as one line.

    Args:
      config: all settings of the run.
      spec: functions and static numbers of the run.
      pooled: whether all clients' data lie in one place.
    """
    slots, mesh = spec.slots, spec.slots.mesh
    kind = (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).device_kind
    devices = _count(slots.devices, f"{kind} device")
    if pooled:
        return f"all data on {devices}"
    some = spec.participants < spec.clients
    taking_part = f", {spec.participants:,} of them in a period," if some else ""
    each = slots.num_slots // slots.devices
    ending = ""
    if slots.devices > 1:
        even = slots.num_slots == spec.participants
        ending += f", {each:,} on each" if even else f", up to {each:,} on each"
    if spec.algorithm.one_at_a_time(config) or spec.chunk == 1 < each:
        ending += ", one after another"
    elif spec.chunk < each:
        ending += f", {spec.chunk:,} at a time"
    return f"{_count(spec.clients, 'client')}{taking_part} on {devices}{ending}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def cuts_of_clients(config: Config, spec: RunSpec) -> list[str]:
    """A line on how many clients are cut where, if the run asks for more than one cut."""
    if not parse(config.cut or "").differs:
        return []
    counts = zip(*np.unique(cuts_of(spec), return_counts=True), strict=True)
    places = (f"{count} after {spec.model[cut - 1].name}" for cut, count in counts)
    return [f"cuts of clients: {', '.join(places)}"]


def open_end(config: Config, spec: RunSpec) -> list[str]:
    """A line on a last period that the run does not complete."""
    period = spec.aggregate_every
    if config.rounds % period == 0:
        return []
    return [
        f"--rounds={config.rounds} is no multiple of --aggregate_every={period}: the last test is "
        "of an average that is never sent, and its upload is not counted"
    ]
