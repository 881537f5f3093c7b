"""Cuts that follow from what clients' devices hold, compute and send with."""

from typing import Any

import numpy as np
import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.engine.parts import group_cuts
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.run.assemble.cuts_by_resource import CutCosts, Links, fastest_cuts
from jfedsl.run.assemble.radio import memory_of

CNN = {"model": "cnn", "norm": "group", "network": "macro_cell", "cut": "by_resource(pool1-pool2)",
       "local_steps": 5, "aggregate_every": 20}  # fmt: skip


def test_each_client_has_the_fastest_cut_that_it_can_hold() -> None:
    draw = np.random.default_rng(0)
    cuts, clients = (2, 3, 5), 40
    links = Links(*draw.uniform(1, 9, (3, clients)), memory=draw.uniform(2, 4, clients))
    costs = CutCosts(
        flops=draw.uniform(1, 9, 3), server=draw.uniform(0, 1, 3),
        up=draw.uniform(1, 9, (3, clients)), down=draw.uniform(1, 9, (3, clients)),
        model=draw.uniform(1, 9, 3),
    )  # fmt: skip
    memory = np.array([1.0, 2.5, 3.5])
    chosen = fastest_cuts(plain(), links, costs, memory, cuts)
    for n in range(clients):
        seconds = {
            cut: costs.flops[i] / links.flops[n]
            + costs.server[i]
            + (costs.up[i, n] + costs.model[i]) / links.up[n]
            + (costs.down[i, n] + costs.model[i]) / links.down[n]
            for i, cut in enumerate(cuts)
            if memory[i] <= links.memory[n]
        }
        assert chosen[n] == min(seconds, key=seconds.__getitem__)
    assert len(set(chosen.tolist())) == 3


def cuts_of(**changes: Any) -> dict[int, int]:
    """The cut of each client."""
    spec = build(plain(**{**CNN, **changes})).spec
    groups = zip(group_cuts(spec), spec.pruner.groups, strict=True)
    return {int(client): cut for cut, members in groups for client in members}


def test_memory_and_speed_of_devices_decide() -> None:
    one = build(plain(**{**CNN, "cut": "pool1"}))
    config: Config = plain(**CNN)
    first, last = (
        memory_of(config, one.spec, one.spec.model[:cut], one.image.shape).total for cut in (2, 4)
    )
    assert first < last
    # The activation behind pool2 is the smallest, that behind conv2 the largest.
    assert cuts_of(device_memory=f"{last},{last - 1},{first},{last}") == {0: 4, 1: 2, 2: 2, 3: 4}
    # Without the time to compute them the sooner the better.
    assert set(cuts_of(device_flops="100").values()) == {2}
    with pytest.raises(UserError, match=rf"device_memory.* at least {first} bytes.* client 1 has"):
        cuts_of(device_memory=f"{last},{first - 1},{last},{last}")
