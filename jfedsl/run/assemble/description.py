"""What a run says of the devices that its clients are spread over."""

import jax

from jfedsl.algorithms.registry import Algorithm
from jfedsl.engine.state import RunSpec


def layout_of(algorithm: Algorithm, spec: RunSpec) -> str:
    """Clients, devices, and how many clients a device has and computes at once, as one line.

    Args:
      algorithm: of the run.
      spec: of the run.
    """
    slots, mesh = spec.slots, spec.slots.mesh
    kind = (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).device_kind
    devices = _count(slots.devices, f"{kind} device")
    if algorithm.sides == "server":
        return f"all data on {devices}"
    some = spec.participants < spec.clients
    taking_part = f", {spec.participants:,} of them in a period," if some else ""
    each = slots.num_slots // slots.devices
    ending = ""
    if slots.devices > 1:
        even = slots.num_slots == spec.participants
        ending += f", {each:,} on each" if even else f", up to {each:,} on each"
    in_turn = algorithm.in_turns or spec.one_by_one
    if in_turn or spec.chunk == 1 < each:
        ending += ", one after another"
    elif spec.chunk < each:
        ending += f", {spec.chunk:,} at a time"
    return f"{_count(spec.clients, 'client')}{taking_part} on {devices}{ending}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
