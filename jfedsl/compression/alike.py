"""Which clients have the same compressor."""

from collections.abc import Iterable, Iterator

import numpy as np

from jfedsl.compression.expression import Call
from jfedsl.compression.registry import COMPRESSORS


def alike(calls: Iterable[Call], clients: int, seed: int) -> np.ndarray:
    """Groups of clients whose numbers in a chain are equal.

    Args:
      calls: from `expression.parse`.
      clients: C.
      seed: of the random order in which ranges are spread over clients.

    Returns:
      Int32 `[C]`: clients with the same number have the same compressor.
    """
    columns = [np.zeros(clients), *_columns(calls, clients, seed)]
    group = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1]
    return group.reshape(-1).astype(np.int32)


def _columns(calls: Iterable[Call], clients: int, seed: int) -> Iterator[np.ndarray]:
    """The numbers of all clients, `[C]`, for every numeric argument of the calls, as it is used."""
    for call in calls:
        yield from _columns(call.inner, clients, seed)
        whole = {
            parameter.name for parameter in COMPRESSORS[call.name].parameters if parameter.whole
        }
        for name, value in call.arguments.items():
            if not isinstance(value, str):
                numbers = value.spread(clients, seed)
                yield np.rint(numbers) if name in whole else numbers
