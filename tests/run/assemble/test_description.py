"""The line that says where clients compute."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jfedsl.config import Config
from jfedsl.run.assemble.description import layout_of
from jfedsl.sharding.slots import assign_slots


def said(
    clients: int, devices: int = 1, sizes: tuple[int, ...] = (), chunk: int = 100,
    serial: bool = False, pooled: bool = False,
) -> str:  # fmt: skip
    """Of as many participants, of each width, as `sizes` says."""
    kinds = np.array([SimpleNamespace(device_kind="H100")] * devices)
    mesh: Any = None if devices == 1 else SimpleNamespace(size=devices, devices=kinds)
    sizes = sizes or (clients,)
    spec: Any = SimpleNamespace(
        clients=clients, participants=sum(sizes), chunk=chunk, slots=assign_slots(sizes, mesh),
        algorithm=SimpleNamespace(one_at_a_time=lambda config: ("algorithm",) * serial),
    )  # fmt: skip
    return layout_of(Config(), spec, pooled)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((10,), "10 clients on 1 cpu device"),
        ((1, 1, (1,), 1), "1 client on 1 cpu device"),
        ((10, 1, (10,), 1), "10 clients on 1 cpu device, one after another"),
        ((100, 4), "100 clients on 4 H100 devices, 25 on each"),
        ((100, 4, (100,), 8), "100 clients on 4 H100 devices, 25 on each, 8 at a time"),
        ((1000, 4, (5, 5)),
         "1,000 clients, 10 of them in a period, on 4 H100 devices, up to 4 on each"),
        ((10, 1, (10,), 100, True), "10 clients on 1 cpu device, one after another"),
        ((1, 1, (1,), 1, False, True), "all data on 1 cpu device"),
    ],
)  # fmt: skip
def test_the_line_says_clients_and_devices(arguments: Any, line: str) -> None:
    assert said(*arguments) == line
