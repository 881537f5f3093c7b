"""Who holds which layers: clients the first `cut` and the last `tail` of them, the server the rest.

Where cuts differ between clients, `cut` is the last of these, and the server's layers begin behind
the first of them: the layers in between are with both.

The variables of a client are tuples with an entry for each layer that it holds, in this order:
layers before the cut, layers of the tail, and auxiliary ones, which the model does not have.
"""

from typing import Any

import numpy as np

from jfedsl.engine.state import RunSpec

# One entry for each layer: the layers themselves, or their variables; () where none has any.
ByLayer = tuple[Any, ...]


def least_cut(spec: RunSpec) -> int:
    """How many of the first layers run on clients only."""
    return spec.cut if spec.cuts is None else spec.cuts.first


def group_cuts(spec: RunSpec) -> tuple[int, ...]:
    """How many of the first layers the clients of each of the pruner's groups run."""
    return (spec.cut,) * len(spec.pruner.groups) if spec.cuts is None else spec.cuts.of_group


def cuts_of(spec: RunSpec) -> np.ndarray:
    """How many of the first layers each client runs, int `[C]`."""
    cuts = np.zeros(spec.clients, int)
    for cut, members in zip(group_cuts(spec), spec.pruner.groups, strict=True):
        cuts[members] = cut
    return cuts


def cut_of_client(spec: RunSpec) -> list[str]:
    """The name of the last layer before each client's cut."""
    return [spec.model[cut - 1].name for cut in cuts_of(spec)]


def server_part(spec: RunSpec, whole: ByLayer) -> ByLayer:
    """The entries of the server's layers, of a tuple for the whole model."""
    return whole[least_cut(spec) : len(spec.model) - spec.tail]


def tail_part(spec: RunSpec, whole: ByLayer) -> ByLayer:
    """The entries of the tail, of a tuple for the whole model."""
    return whole[len(spec.model) - spec.tail :]


def client_part(spec: RunSpec, whole: ByLayer) -> ByLayer:
    """The entries of the layers that clients hold, of a tuple for the whole model."""
    return whole[: spec.cut] + tail_part(spec, whole)


def tail_of_client(spec: RunSpec, held: ByLayer) -> ByLayer:
    """The entries of the tail, of a tuple for the layers that a client holds."""
    return held[spec.cut : spec.cut + spec.tail]


def auxiliary_of_client(spec: RunSpec, held: ByLayer) -> ByLayer:
    """The entries of the auxiliary layers, of a tuple for the layers that a client holds."""
    return held[spec.cut + spec.tail :]


def behind_cut(spec: RunSpec, held: ByLayer, of_server: ByLayer) -> ByLayer:
    """The entries of all layers behind the cut, from those of a client and of the server."""
    return of_server[spec.cut - least_cut(spec) :] + tail_of_client(spec, held)


def whole_model(spec: RunSpec, held: ByLayer, of_server: ByLayer) -> ByLayer:
    """The entries of all layers of the model, from those of a client and of the server."""
    return held[: spec.cut] + behind_cut(spec, held, of_server)
