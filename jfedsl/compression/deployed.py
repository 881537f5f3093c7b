"""What an activation passes when a trained model is used: compressors that draw nothing.

Inference with a split model crosses the cut too. Compressors whose errors are unbiased noise in
training have a form without the noise; those that leave entries out on purpose still do.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from jfedsl.compression.compressor import chain
from jfedsl.compression.expression import Call, Link, link
from jfedsl.compression.registry import COMPRESSORS, identity


def deployed(calls: tuple[Call, ...], clients: int, seed: int) -> tuple[Link, np.ndarray] | None:
    """The links in the deterministic form that a trained model is used with.

    Random dropout and SplitFC are replaced by their expectation, RandTopk by top-k; quantizers
    round to the nearest; feedback remembers nothing.

    Args:
      calls: from `parse`.
      clients: C.
      seed: of the order in which ranges are spread.

    Returns:
      The links, and int32 `[C]`: clients of the same number have the same link. None where the
      activation passes as it is.
    """
    left = _not_identity(calls)
    if not left:
        return None
    links = [link(call, clients, seed, deployed=True) for call in left]
    columns = [np.zeros(clients), *_columns(left, clients, seed)]
    variant = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1]
    return lambda client: chain(*(one(client) for one in links)), variant.reshape(-1).astype(
        np.int32
    )


def _not_identity(calls: tuple[Call, ...]) -> list[Call]:
    """Calls of which something is left at inference, those inside `feedback` for themselves."""
    flat: list[Call] = []
    for call in calls:
        flat += _not_identity(call.inner) if call.inner else [call]
    return [call for call in flat if COMPRESSORS[call.name].deployed is not identity]


def _columns(calls: Iterable[Call], clients: int, seed: int) -> Iterator[np.ndarray]:
    """Every number of the calls for every client, `[C]`."""
    for call in calls:
        for value in call.arguments.values():
            if not isinstance(value, str):
                yield value.spread(clients, seed)
