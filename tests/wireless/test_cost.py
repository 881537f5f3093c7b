"""Seconds and joules of a round against the formulas of the model, in float64, one by one."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.wireless.cost import KAPPA, Cost, Sent, round_cost
from jfedsl.wireless.network import MACRO_CELL
from jfedsl.wireless.radio import Conditions, Deployment, FlopCounts, Radio, RadioHardware

CLIENTS = 9
SERVER_FLOPS = 3e11  # of one client's batch


class Round(NamedTuple):
    """A round as `round_cost` takes it, with speeds and powers of all clients."""

    flops: Any
    power: Any
    ids: Any
    conditions: Conditions
    sent: Sent
    timeout: float | None = None
    deadline: float | None = None


@partial(jax.jit, static_argnums=1)
def priced(given: Round, one_by_one: bool) -> Cost:
    empty = jnp.zeros((1, 1))
    radio = Radio(
        network=MACRO_CELL,
        deployment=Deployment(RadioHardware(given.flops, given.power, jnp.ones(CLIENTS)), empty),
        flop_counts=FlopCounts(empty, empty, SERVER_FLOPS),
        allocation="equal", sparse=False, outage_snr=None,
        timeout=given.timeout, deadline=given.deadline,
    )  # fmt: skip
    return round_cost(radio, given.ids, given.conditions, given.sent, one_by_one)


def cost_of(given: Round, one_by_one: bool = False) -> Cost:
    single = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if np.asarray(x).dtype == float else None), given
    )
    return jax.tree.map(lambda x: np.asarray(x, np.float64), priced(single, one_by_one))


def some_round(seed: int, steps: int, count: int, fails: bool = False, **waits: float) -> Round:
    """A round of `count` participants; who is late, away or without the model fails."""
    rng = np.random.default_rng(seed)

    def spread(low: float, high: float, *shape: int) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), shape))

    there = rng.random(count) < (0.6 if fails else 2)
    has_current_model = rng.random(count) < (0.7 if fails else 2)
    conditions = Conditions(
        spread(1e4, 1e8, count), spread(1e4, 1e8, count), spread(1e-3, 10, count),
        spread(1e-3, 10, count), there, spread(1e8, 1e9, count), spread(1e8, 1e9, count),
    )  # fmt: skip
    up = spread(1e3, 1e7, steps, count) * has_current_model
    arrived = np.tile(has_current_model & there, (steps, 1))
    if "deadline" in waits:
        arrived &= conditions.forward + up / conditions.up_rate <= waits["deadline"]
    due = rng.random(2) < 0.5
    sent = Sent(
        up, spread(1e3, 1e7, steps, count) * arrived,
        due[0] * spread(1e3, 1e8, count) * has_current_model,
        due[1] * spread(1e3, 1e8, count), arrived, has_current_model,
    )  # fmt: skip
    flops, power = spread(1e9, 1e10, CLIENTS), spread(0.01, 1, CLIENTS)
    return Round(flops, power, rng.permutation(CLIENTS)[:count], conditions, sent, **waits)


seeds = st.integers(0, 10**6)
shapes = st.sampled_from([(1, 3), (5, 8)])
waits = st.sampled_from(
    [{}, {"timeout": 0.5}, {"deadline": 2.0}, {"timeout": 5.0, "deadline": 2.0}]
)


def close(actual: Any, expected: Any, scale: float = 0.0) -> None:
    """To float32's digits of them, or of `scale` where they are differences of such numbers."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale)


@given(seeds, shapes)
def test_a_round_in_which_nobody_fails(seed, shape):
    given = some_round(seed, *shape)
    conditions, sent = given.conditions, given.sent
    up_rate, down_rate, forward, backward = (
        conditions.up_rate,
        conditions.down_rate,
        conditions.forward,
        conditions.backward,
    )
    server = shape[1] * SERVER_FLOPS / MACRO_CELL.server_flops
    seconds = computing = 0.0
    for up, down in zip(sent.up, sent.down, strict=True):
        there, back = forward + up / up_rate, down / down_rate + backward
        seconds += there.max() + server + back.max()
        computing += forward[there.argmax()] + server + backward[back.argmax()]
    seconds += (sent.model_down / down_rate).max() + (sent.model_up / up_rate).max()
    cost = cost_of(given)
    close(cost.seconds, seconds)
    close(cost.compute_seconds, computing)
    close(cost.server, shape[0] * server)
    close(cost.compute, shape[0] * (forward + backward))
    close(cost.uplink, (sent.up.sum(0) + sent.model_up) / up_rate, seconds)
    close(cost.downlink, (sent.down.sum(0) + sent.model_down) / down_rate, seconds)
    assert cost.lost == 0


@given(seeds, shapes, waits)
def test_seconds_add_up_whoever_fails(seed, shape, waits):
    cost = cost_of(some_round(seed, *shape, fails=True, **waits))
    assert np.all(cost.waiting >= 0)
    parts = cost.compute + cost.uplink + cost.downlink + cost.waiting + cost.server
    close(parts, np.full(shape[1], cost.seconds))
    close(cost.compute_seconds + cost.communication_seconds, cost.seconds)
    assert 0 <= cost.compute_seconds <= cost.seconds * (1 + 1e-6)
    first, up, server, down, last = cost.stages
    whole = first.seconds + np.sum(up.seconds + server + down.seconds) + last.seconds
    close(whole, cost.seconds)
    for stage in (first, up, down, last):
        assert np.all(stage.computing >= 0) and np.all(stage.sending >= 0)
        most = np.expand_dims(stage.seconds, -1) * (1 + 1e-6)
        assert np.all(stage.computing + stage.sending <= most)
        assert np.all(stage.critical <= stage.seconds * (1 + 1e-6))


@given(seeds, shapes, waits)
def test_how_long_the_server_waits(seed, shape, waits):
    given = some_round(seed, *shape, fails=True, **waits)
    conditions, sent = given.conditions, given.sent
    seen = cost_of(given).stages[1].seconds
    for step in range(shape[0]):
        attempts = conditions.forward + sent.up[step] / conditions.up_rate
        end = 0.0
        for n in range(shape[1]):
            if sent.arrived[step, n]:
                end = max(end, attempts[n])
            elif sent.has_current_model[n] and not conditions.reachable[n]:
                end = max(end, given.timeout or 0.0)
        end = end or max(attempts * sent.has_current_model)
        if given.deadline is not None:
            late = sent.has_current_model & conditions.reachable & ~sent.arrived[step]
            end = given.deadline if late.any() else min(end, given.deadline)
        close(seen[step], end)


@given(seeds, shapes, waits)
def test_joules(seed, shape, waits):
    given = some_round(seed, *shape, fails=True, **waits)
    cost, ids = cost_of(given), given.ids
    frequency = given.flops[ids] / MACRO_CELL.flops_per_cycle
    cycles = cost.compute * frequency
    close(cost.compute_joules, KAPPA * cycles * frequency**2)
    close(cost.transmit_joules, given.power[ids] * cost.uplink)


@given(seeds, shapes)
def test_lost_exchanges(seed, shape):
    given = some_round(seed, *shape, fails=True, deadline=1.0)
    cost = cost_of(given)
    lost = sum(not x for row in given.sent.arrived for x in row)
    close(cost.lost, lost / (shape[0] * shape[1]))
    served = given.sent.arrived.sum() * SERVER_FLOPS / MACRO_CELL.server_flops
    close(cost.server, served)


# One exchange of three who compute 1, 2, 3 s and then send for 10, 20, 30 s.

EVERYBODY = (True, True, True)
LAST_AWAY = (True, True, False)
NOBODY = (False, False, False)


def exchange(
    arrived: tuple[bool, ...] = EVERYBODY,
    there: tuple[bool, ...] = EVERYBODY,
    has_current_model: tuple[bool, ...] = EVERYBODY,
    **waits: float,
) -> Cost:
    """Its cost; gradients come in 5 s, then everyone computes 4 s."""
    seconds, had, have = np.array([1.0, 2.0, 3.0]), np.array(arrived), np.array(has_current_model)
    rate = np.ones(3)
    conditions = Conditions(rate, rate, seconds, 4 * rate, np.array(there), rate, rate)
    sent = Sent(10 * seconds[None] * have, 5.0 * had[None], 0 * rate, 0 * rate, had[None], have)
    flops, power = np.full(CLIENTS, 8e9), np.full(CLIENTS, 0.2)
    return cost_of(Round(flops, power, np.arange(3), conditions, sent, **waits))


def server(count: int) -> float:
    return count * SERVER_FLOPS / MACRO_CELL.server_flops


def test_an_outage_takes_as_long_as_the_slowest_other():
    cost = exchange(LAST_AWAY, LAST_AWAY)
    close(cost.seconds, 22 + server(2) + 9)
    close(cost.compute_seconds, 2 + server(2) + 4)
    close(cost.lost, 1 / 3)


def test_an_attempt_ends_with_its_stage_and_is_charged():
    cost = exchange(LAST_AWAY, LAST_AWAY)
    close(cost.compute, [1 + 4, 2 + 4, 3])
    close(cost.uplink, [10, 20, 22 - 3])
    close(cost.downlink, [5, 5, 0])
    close(cost.waiting, [11, 0, 9], scale=1)
    # At 8e9 FLOP/s and 8 FLOPs a cycle.
    close(cost.compute_joules, 1e-28 * 1e27 * cost.compute)
    close(cost.transmit_joules, [2, 4, 0.2 * 19])


@pytest.mark.parametrize(("has_current_model", "seconds"), [(LAST_AWAY, 0), (NOBODY, 50)])
def test_who_holds_the_model_does_not_wait_for_vain_deliveries(has_current_model, seconds):
    rate, there = np.ones(3), np.array(LAST_AWAY) & np.array(has_current_model)
    conditions = Conditions(rate, rate, rate, rate, there, rate, rate)
    nothing, down = np.zeros((1, 3)), 50.0 * ~np.array(has_current_model)
    sent = Sent(nothing, nothing, 0 * rate, down, nothing > 0, np.array(has_current_model))
    flops, power = np.full(CLIENTS, 8e9), np.full(CLIENTS, 0.2)
    cost = cost_of(Round(flops, power, np.arange(3), conditions, sent))
    close(cost.stages[0].seconds, seconds)


def test_computing_is_cut_off_too():
    cost = exchange(NOBODY, NOBODY, timeout=1.5)
    close(cost.compute, [1, 1.5, 1.5])
    close(cost.uplink, [0.5, 0, 0])


@pytest.mark.parametrize(("timeout", "up"), [(5.0, 22), (40.0, 40)])
def test_a_time_out_is_waited_for_who_is_away(timeout, up):
    cost = exchange(LAST_AWAY, LAST_AWAY, timeout=timeout)
    close(cost.seconds, up + server(2) + 9)
    close(cost.uplink[2], min(30, up - 3))
    assert exchange(timeout=timeout).seconds == exchange().seconds, "nobody is away"


def test_a_deadline_is_waited_for_only_if_someone_reachable_misses_it():
    close(exchange(LAST_AWAY, deadline=25.0).seconds, 25 + server(2) + 9)
    close(exchange(LAST_AWAY, LAST_AWAY, deadline=25.0).seconds, 22 + server(2) + 9)
    assert exchange(deadline=35.0).seconds == exchange().seconds
    close(exchange(LAST_AWAY, deadline=25.0).compute_seconds, 2 + server(2) + 4)


def test_nobody_succeeds():
    attempt = exchange(NOBODY, NOBODY)
    close(attempt.seconds, 33)
    close(attempt.compute_seconds, 3)
    close(attempt.waiting, [22, 11, 0], scale=1)
    close(exchange(NOBODY, NOBODY, timeout=7.0).seconds, 7)
    close(exchange(NOBODY, deadline=6.0).seconds, 6)
    for cost in (attempt, exchange(NOBODY, deadline=6.0)):
        assert cost.lost == 1 and cost.server == 0 and not cost.downlink.any()


def turns(
    there: tuple[bool, ...] = (True, True), late: tuple[int, int] | None = None, **waits: float
) -> Cost:
    """A round of three exchanges of two, one after the other.

    They compute 1 and 2 s before they send and 3 and 4 s after they receive. Together both send for
    10 and receive for 20 s, alone for 5 and 6 s, and the models take 100 and 200 s. One of the
    (step, participant) may be late.
    """
    one, had = np.ones(2), np.tile(there, (3, 1))
    if late is not None:
        had[late] = False
    passes = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    conditions = Conditions(one, one, *passes, np.array(there), 2 * one, 20 / 6 * one)
    tried = had | (np.arange(3) == 0)[:, None]
    up = 10.0 * tried
    sent = Sent(up, 20.0 * had, 200 * one, 100 * one, had, np.ones(2, bool))
    flops, power = np.full(CLIENTS, 8e9), np.full(CLIENTS, 0.2)
    return cost_of(Round(flops, power, np.arange(2), conditions, sent, **waits), one_by_one=True)


def test_client_after_client_takes_turns_between_what_all_do_together():
    cost = turns()
    # First activations and last gradients, then two exchanges of each alone, and the models.
    first, last = 2 + 10, 20 + 4
    mine, other = 2 * (6 + 3 + 1 + 5), 2 * (6 + 4 + 2 + 5)
    close(cost.seconds, 100 + first + mine + other + server(6) + last + 200)
    close(cost.compute_seconds, 2 + 2 * (3 + 1) + 2 * (4 + 2) + server(6) + 4)
    close(cost.server, server(6))
    close(cost.compute, [3 * (1 + 3), 3 * (2 + 4)])
    close(cost.uplink, [10 + 2 * 5 + 200] * 2)
    close(cost.downlink, [100 + 2 * 6 + 20] * 2)
    close(cost.waiting, [1 + other + 1, mine], scale=10)
    close(cost.transmit_joules, 0.2 * cost.uplink)
    assert cost.lost == 0


def test_who_is_out_of_reach_has_no_turn():
    cost = turns((True, False), timeout=30.0)
    mine = 2 * (6 + 3 + 1 + 5)
    # The model and the first activation are waited for, the rest is not.
    close(cost.stages[1].seconds[:, 0], [30, 6, 6])
    close(cost.stages[1].seconds[:, 1], [30, 0, 0])
    close(cost.seconds, 100 + 30 + mine + server(3) + 23 + 200)
    close(cost.compute, [3 * (1 + 3), 2])
    close(cost.lost, 1 / 2)


def test_a_late_activation_of_a_turn_is_waited_for_up_to_the_deadline():
    cost = turns(late=(1, 0), deadline=15.0)
    # No gradient follows it.
    mine, other = (6 + 3) + 15 + (1 + 5), 2 * (6 + 4 + 2 + 5)
    close(cost.seconds, 100 + 12 + mine + other + server(5) + 24 + 200)
    close(cost.lost, 1 / 6)


@given(seeds, shapes, waits)
def test_seconds_of_turns_add_up_whoever_fails(seed, shape, waits):
    given = some_round(seed, *shape, fails=True, **waits)
    cost = cost_of(given, one_by_one=True)
    parts = cost.compute + cost.uplink + cost.downlink + cost.waiting + cost.server
    close(parts, np.full(shape[1], cost.seconds))
    assert 0 <= cost.compute_seconds <= cost.seconds * (1 + 1e-6)
    if shape[0] == 1:
        close(cost.seconds, cost_of(given).seconds)


def test_who_holds_no_model_costs_nothing_and_is_not_waited_for():
    cost = exchange(LAST_AWAY, EVERYBODY, LAST_AWAY, timeout=50.0, deadline=50.0)
    close(cost.seconds, 22 + server(2) + 9)
    close(cost.waiting[2], 31)
    assert cost.compute_joules[2] == cost.transmit_joules[2] == 0
    assert exchange(NOBODY, NOBODY, NOBODY, timeout=5.0).seconds == 0
