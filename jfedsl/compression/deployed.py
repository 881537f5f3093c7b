"""Compressors at the cut when a trained model is used: their deterministic forms.

Inference with a split model sends the activation too. A compressor that adds unbiased noise in
training has a form without the noise here; one that selects entries still does so.
"""

from typing import Any, NamedTuple

import numpy as np

from jfedsl.compression.alike import alike
from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.expression import Call, ClientCompressor, build_call
from jfedsl.compression.registry import COMPRESSORS, identity


class Deployed(NamedTuple):
    """What activations pass when a trained model is used: their compressors, drawing nothing.

    Attributes:
      compressor: at the cut, from a client's number to its `Compressor`; None: nothing.
      at_tail: the same on the way down to the tail.
      mask_group: int32 `[C]`: clients of the same number have the same compressors.
    """

    compressor: Any
    at_tail: Any
    mask_group: np.ndarray


def deployed(
    calls: tuple[Call, ...], clients: int, seed: int
) -> tuple[ClientCompressor, np.ndarray] | None:
    """The compressors of a chain in the deterministic form that a trained model is used with.

    Random dropout and SplitFC are replaced by their expectation, RandTopk by top-k; quantizers
    round to the nearest; feedback remembers nothing.

    Args:
      calls: from `parse`.
      clients: C.
      seed: of the random order in which ranges are spread over clients.

    Returns:
      The compressor as a function of the client's number, and int32 `[C]`: clients with the same
      number have the same compressor. None: the activation is sent as it is.
    """
    active = _not_identity(calls)
    if not active:
        return None
    compressors = [build_call(call, clients, seed, deployed=True) for call in active]

    def of_client(client: Any) -> Compressor:
        return chain(*(compressor(client) for compressor in compressors))

    return of_client, alike(active, clients, seed)


def _not_identity(calls: tuple[Call, ...]) -> list[Call]:
    """The calls that do something at inference; `feedback` is replaced by the chain inside it."""
    flat: list[Call] = []
    for call in calls:
        flat += _not_identity(call.inner) if call.inner else [call]
    return [call for call in flat if COMPRESSORS[call.name].deployed is not identity]
