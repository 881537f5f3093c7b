"""Predicted rounds: whole periods, no more than needed, and the best of all settings."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_equal, plain

from jfedsl.planner.estimates import RoundCosts, period_start
from jfedsl.planner.expected import costs
from jfedsl.planner.predictions import as_measured, best, to_target, whole_periods, within
from jfedsl.run.assemble import build
from jfedsl.run.plots.pareto import pareto
from jfedsl.theory.bound import Effects, Setting, bound
from jfedsl.wireless.mobility import Motion
from planner.small_grid import CONSTANTS


def three_settings() -> tuple[RoundCosts, Effects, Setting]:
    costs = RoundCosts(np.array([1.0, 0.6, 0.5]), np.ones(3), np.array([1.0, 2.0, 4.0]), 3)
    setting = Setting(np.full(3, 2.0), np.full(3, 0.02), 1.0, costs.period * 3, 3, 3, 1 / 3)
    return costs, Effects(q=np.array([0.0, 0.1, 0.2])), setting


@pytest.mark.parametrize("tune", [False, True])
def test_rounds_to_a_target_are_whole_periods_that_reach_it_and_no_more(tune: bool):
    costs, effects, setting = three_settings()
    predicted = to_target(costs, CONSTANTS, effects, setting, 0.9, tune)
    assert np.isfinite(predicted.rounds).all() and not (predicted.rounds % costs.period).any()
    assert (predicted.bound <= 0.9 * (1 + 1e-5)).all()
    one_period_less = np.maximum(predicted.rounds - costs.period, 0.1) * 3
    earlier = setting._replace(steps=one_period_less, step_size=predicted.step_size)
    assert (np.asarray(bound(CONSTANTS, effects, earlier).total) > 0.9).all()
    untuned = to_target(costs, CONSTANTS, effects, setting, 0.9, False)
    assert (predicted.rounds <= untuned.rounds).all()
    np.testing.assert_allclose(predicted.seconds, predicted.rounds * costs.seconds)


def test_within_a_budget_the_bound_is_of_whole_periods():
    costs, effects, setting = three_settings()
    predicted = within(costs, CONSTANTS, effects, setting, 7 / costs.seconds, False)
    assert predicted.rounds.tolist() == [7, 10, 12]
    after = setting._replace(steps=predicted.rounds * 3)
    np.testing.assert_allclose(predicted.bound, bound(CONSTANTS, effects, after).total, rtol=1e-6)
    tuned = within(costs, CONSTANTS, effects, setting, 7 / costs.seconds, True)
    assert (tuned.bound <= predicted.bound).all() and (tuned.step_size <= 0.25).all()
    short = within(costs, CONSTANTS, effects, setting, np.array([1.0, 1.0, 3.0]), False)
    assert short.bound[1:].tolist() == [np.inf] * 2, "no whole period"


def test_measured_rounds_become_whole_periods_with_their_costs():
    predicted = as_measured(three_settings()[0], np.array([3.5, 3.5, np.inf]), 0.1)
    assert predicted.rounds.tolist() == [4, 4, np.inf]
    np.testing.assert_allclose(predicted.seconds, [4, 2.4, np.inf])
    assert np.isnan(predicted.bound).all() and (predicted.step_size == 0.1).all()


def test_planned_costs_are_those_of_fading_anew_and_of_devices_where_they_start():
    e = build(plain(network="macro_cell", prune_kind="none"))
    radio = e.spec.radio
    assert radio is not None
    moving = radio.network._replace(fading_memory=0.9, device_speed=30.0)
    motion = Motion(*jnp.full((2, e.spec.clients), 100.0))
    hardware = radio.deployment.hardware._replace(motion=motion)
    deployment = radio.deployment._replace(hardware=hardware)
    spec = e.spec._replace(radio=radio._replace(network=moving, deployment=deployment))
    bits, start = jnp.full((1, spec.clients), 1e5), period_start(e)
    assert_equal(*(costs(each, e.key, start, bits, bits) for each in (e.spec, spec)))


def test_best_and_pareto_are_those_of_loops():
    draws = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    draws[3] = np.inf

    def beaten(i: int) -> bool:
        return any(
            (a <= draws[i]).all() and (a < draws[i]).any() for j, a in enumerate(draws) if j != i
        )

    finite = np.isfinite(draws).all(axis=1)
    wanted = [bool(finite[i]) and not beaten(i) for i in range(40)]
    assert pareto(draws).tolist() == wanted
    allowed = draws[:, 1] > 2
    wanted_best = min((x, i) for i, x in enumerate(draws[:, 0]) if allowed[i])[1]
    assert best(draws[:, 0], allowed) == wanted_best
    assert best(draws[:, 0], np.zeros(40, bool)) is None


def test_whole_periods_round_up_or_down_and_keep_infinity():
    rounds, period = np.array([4.1, np.inf]), np.array([4, 4])
    assert whole_periods(rounds, period).tolist() == [8, np.inf]
    assert whole_periods(rounds, period, up=False).tolist() == [4, np.inf]
