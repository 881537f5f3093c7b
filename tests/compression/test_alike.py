"""Clients with the same compressor, against one compressor built for each client."""

import numpy as np
import pytest

from jfedsl.compression import expression
from jfedsl.compression.alike import alike
from jfedsl.compression.expression import Constraints

CHAINS = [
    "uniform(8)",
    "uniform(2-4)",
    "dropout(0.1-0.5)|uniform(4)",
    "feedback(topk(0.1-0.3))|uniform([2,2,4,4,8,8,2])",
]


@pytest.mark.parametrize("text", CHAINS)
def test_clients_alike_send_as_much_and_others_differ_in_a_number(text: str) -> None:
    clients, seed = 7, 3
    calls = expression.parse(text, clients, Constraints())
    group = alike(calls, clients, seed)
    assert group.shape == (clients,) and group.dtype == np.int32
    numbers = np.stack([column for column in _numbers(calls, clients, seed)], axis=1)
    for a in range(clients):
        for b in range(clients):
            assert (group[a] == group[b]) == np.array_equal(numbers[a], numbers[b])
    assert group.max() == len(set(group.tolist())) - 1, "groups are numbered without gaps"


def _numbers(calls, clients, seed):  # type: ignore[no-untyped-def]
    """Each numeric argument of all clients; whole ones, such as bits, are rounded."""
    for call in calls:
        yield from _numbers(call.inner, clients, seed)
        for name, value in call.arguments.items():
            if not isinstance(value, str):
                spread = value.spread(clients, seed)
                yield np.rint(spread) if name == "bits" else spread
    yield np.zeros(clients)
