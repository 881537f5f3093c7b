"""The cost of rounds whose server does not wait for all, against runs."""

from functools import partial

import jax
import numpy as np
import pytest

from jfedsl.planner.estimates import estimate
from jfedsl.planner.settings import axes, config_grid
from jfedsl.run.assemble import build
from planner.small_grid import base

ROUNDS, LEFT_OUT = 120, 40


@pytest.mark.slow
def test_planned_rounds_cost_what_those_of_a_run_do() -> None:
    config = base(clients=5, train_examples=100, fading="none", device_classes="3*phone,2*sensor")
    grid = config_grid(config, axes(config, {"periods": ["2"], "quorums": ["2"]}))
    planned = estimate(grid).costs
    e = build(grid.flat[0])
    record = e.rounds(ROUNDS)(e.data, e.key, e.init(), ROUNDS)[1]
    clock = jax.jit(jax.vmap(partial(e.spec.algorithm.clock, e.spec)))
    cost = jax.tree.map(lambda x: np.asarray(x, np.float64)[LEFT_OUT:], clock(record))
    joules = (cost.compute_joules + cost.transmit_joules).sum(axis=1)
    np.testing.assert_allclose(planned.seconds, cost.seconds.mean(), rtol=0.03)
    np.testing.assert_allclose(planned.joules, joules.mean(), rtol=0.03)
