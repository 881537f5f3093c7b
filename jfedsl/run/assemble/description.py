"""What a run says of the devices that its clients are spread over."""

import jax

from jfedsl.algorithms.registry import Algorithm
from jfedsl.engine.state import Scheme


def layout_of(algorithm: Algorithm, scheme: Scheme) -> str:
    """Clients, devices, and how many clients a device has and computes at once, as one line.

    Args:
      algorithm: of the run.
      scheme: of the run.
    """
    placement, mesh = scheme.placement, scheme.placement.mesh
    kind = (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).device_kind
    devices = _count(placement.devices, f"{kind} device")
    if algorithm.sides == "server":
        return f"all data on {devices}"
    some = scheme.participants < scheme.clients
    taking_part = f", {scheme.participants:,} of them in a period," if some else ""
    each = placement.places // placement.devices
    ending = ""
    if placement.devices > 1:
        even = placement.places == scheme.participants
        ending += f", {each:,} on each" if even else f", up to {each:,} on each"
    in_turn = algorithm.in_turns or scheme.one_by_one
    if in_turn or scheme.chunk == 1 < each:
        ending += ", one after another"
    elif scheme.chunk < each:
        ending += f", {scheme.chunk:,} at a time"
    return f"{_count(scheme.clients, 'client')}{taking_part} on {devices}{ending}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
