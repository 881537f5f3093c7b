"""Devices that are out of reach or too late: what becomes of them, of server and mean."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, slow
from jax import Array

from jfedsl.config import Config
from jfedsl.engine.client_memory import memories
from jfedsl.engine.masks import masks_of
from jfedsl.engine.period import draw_period
from jfedsl.engine.round import run_round
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import State
from jfedsl.run.assemble import Experiment, build

CLIENTS, AWAY = 4, 2
OTHERS = np.array([n != AWAY for n in range(CLIENTS)])
Round = Callable[[State], tuple[State, RoundRecord]]


def experiment(**changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "model": "mlp", "norm": "none", "train_examples": 200, "test_examples": 50,
        "clients": CLIENTS, "batch_size": 4, "local_steps": 2, "partition": "iid",
        "aggregate_every": 2, "outage_snr_db": -200.0, "prune_rate": (0.3,), "momentum": 0.9,
    }  # fmt: skip
    return build(Config(**(settings | changes)))


def rounds_by_gain(e: Experiment) -> Callable[[Array, State], tuple[State, RoundRecord]]:
    """A compiled round by the devices' gains; one of 0 gets nothing through."""
    radio = e.spec.radio
    assert radio is not None

    def run(gain: Array, state: State) -> tuple[State, RoundRecord]:
        deployment = radio.deployment._replace(
            hardware=radio.deployment.hardware._replace(gain=gain)
        )
        spec = e.spec._replace(radio=radio._replace(deployment=deployment))
        return run_round(spec, e.data, e.key, state)

    return jax.jit(run)


def gain_without(e: Experiment, away: list[int]) -> Array:
    assert e.spec.radio is not None
    return e.spec.radio.deployment.hardware.gain.at[jnp.array(away, int)].set(0.0)


class Setting(NamedTuple):
    """An experiment and its compiled functions.

    Attributes:
      experiment: the experiment.
      without: makes a round in which these clients cannot be reached: nothing they send gets
        through.
      evaluate: the test of a state.
    """

    experiment: Experiment
    without: Callable[[list[int]], Round]
    evaluate: Callable[[State], Any]


def setting_of(e: Experiment) -> Setting:
    by_gain, tested = rounds_by_gain(e), e.evaluate()
    return Setting(
        e,
        lambda away: functools.partial(by_gain, gain_without(e, away)),
        lambda state: tested(e.data, state, e.test),
    )


@pytest.fixture(scope="module")
def setting() -> Setting:
    return setting_of(experiment())


def row(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x[n], tree)


def perturbed(state: State) -> State:
    """The state with other weights on the client that is away."""
    params = jax.tree.map(lambda w: w.at[AWAY].add(1.0), state.clients.params)
    return state.replace(clients=state.clients.replace(params=params))


def test_who_is_away_stays_as_it_was_and_touches_nobody(setting):
    e, without, _ = setting
    state, _ = without([])(e.init())
    state = state.replace(round=jnp.int32(2), has_current_model=jnp.ones(CLIENTS, bool))
    # As in the middle of a period of four rounds: neither a start nor an end.
    spec = e.spec._replace(aggregate_every=4)
    one_away = setting_of(e._replace(spec=spec)).without([AWAY])
    after, record = one_away(state)
    assert_equal(row(after.clients, AWAY), row(state.clients, AWAY))
    np.testing.assert_array_equal(record.took_part, np.broadcast_to(OTHERS, (2, CLIENTS)))
    assert (np.asarray(record.sent["smashed_up"]) > 0).all()  # sent in vain
    assert (np.asarray(record.sent["cut_gradient_down"])[:, AWAY] == 0).all()
    other, again = one_away(perturbed(state))
    assert_equal(after.server, other.server)
    for n in np.flatnonzero(OTHERS):
        assert_equal(row(after.clients, n), row(other.clients, n))
    np.testing.assert_array_equal(record.train_loss, again.train_loss)


def test_present_clients_share_the_weight(setting):
    e, without, _ = setting
    state, record = without([AWAY])(e.init())
    losses = np.asarray(record.losses)[:, OTHERS]
    sizes = np.asarray(e.data.partition.sizes)[OTHERS]
    assert_close(record.train_loss, np.mean(losses @ (sizes / sizes.sum())))


def test_nobody_there_changes_nothing(setting):
    e, without, evaluate = setting
    state, nobody_there = e.init(), without(list(range(CLIENTS)))
    after, record = nobody_there(state)
    assert_equal(after.server, state.server)
    assert_equal(after.clients, state.clients)
    assert record.train_loss == 0 and not np.asarray(record.took_part).any()
    assert not np.asarray(record.sent["smashed_up"]).any()  # without the model nobody computes
    assert (np.asarray(record.sent["model_down"]) > 0).all()
    ended, record = nobody_there(after)
    assert_equal(ended.aggregator, state.aggregator)
    assert all(np.isfinite(x) for x in jax.tree.leaves(evaluate(ended)))


def test_the_model_arrives_at_the_next_success(setting):
    e, all_there, one_away = setting.experiment, setting.without([]), setting.without([AWAY])
    state, first = one_away(perturbed(e.init()))
    assert first.sent["model_down"][AWAY] > 0  # in vain
    np.testing.assert_array_equal(state.has_current_model, OTHERS)
    assert not np.asarray(first.sent["smashed_up"])[:, AWAY].any()
    after, second = all_there(state)
    down = np.asarray(second.sent["model_down"])
    assert down[AWAY] > 0 and not down[OTHERS].any()
    # It computed with the aggregator's model, not with the one it had.
    alike, _ = all_there(state.replace(clients=perturbed(state).clients))
    assert_equal(after.server, alike.server)
    assert bool(jnp.all(after.has_current_model))


def test_who_fails_to_upload_is_not_in_the_mean_and_keeps_its_model(setting):
    e, without, evaluate = setting
    all_there, one_away = without([]), without([AWAY])
    state, _ = all_there(e.init())
    after, record = one_away(state)
    other, _ = one_away(perturbed(state))
    assert_equal(after.aggregator, other.aggregator)
    assert record.sent["model_up"][AWAY] > 0
    for name in ("params", "masks"):
        assert_equal(
            row(getattr(after.clients, name), AWAY), row(getattr(state.clients, name), AWAY)
        )
    np.testing.assert_array_equal(after.has_current_model, OTHERS)
    assert_equal(row(after.clients.params, 0), after.aggregator.params)
    assert_equal(evaluate(after), evaluate(other))
    # Nothing is left of that in the next period.
    onwards, record = all_there(after)
    assert (np.asarray(record.sent["model_down"]) > 0).all() and bool(
        jnp.all(onwards.has_current_model)
    )


@pytest.mark.parametrize(
    "changes",
    [
        slow({}),
        slow({"outage_snr_db": None, "deadline_s": 1e9}),
        {"prune_kind": "channel"},
    ],
)
def test_a_network_that_never_fails_changes_nothing_but_rounding(changes):
    changes = changes | {"cut_gradient_bits": 32, "client_gradient_bits": 32}
    free = changes | {"outage_snr_db": None, "deadline_s": None}
    (state, record), (same, plain) = (
        e.rounds(3)(e.data, e.key, e.init(), 3) for e in (experiment(**changes), experiment(**free))
    )
    assert_close(state.server, same.server, rtol=1e-4, atol=1e-5)
    assert_close(state.clients.params, same.clients.params, rtol=1e-4, atol=1e-5)
    assert_close(record.losses, plain.losses, rtol=1e-4, atol=1e-5)
    assert_equal(record.sent, {**plain.sent, "cut_gradient_down": record.sent["cut_gradient_down"]})


def test_a_deadline_leaves_the_slow_out():
    e = experiment(outage_snr_db=None, deadline_s=1e9)
    radio = e.spec.radio
    state, record = e.rounds(1)(e.data, e.key, e.init(), 1)
    one = jax.tree.map(lambda x: x[0], record)
    bits = 8.0 * np.asarray(one.sent["smashed_up"])
    seconds = np.asarray(one.conditions.forward) + bits / np.asarray(one.conditions.up_rate)
    middle = float(np.median(seconds[0]))
    spec = e.spec._replace(radio=radio._replace(deadline=middle))
    e = e._replace(spec=spec)
    state, record = e.rounds(2)(e.data, e.key, e.init(), 2)
    np.testing.assert_array_equal(record.took_part[0][0], seconds[0] <= middle)
    assert 0 < np.asarray(record.took_part).sum() < record.took_part.size
    assert (np.asarray(record.sent["model_up"][1]) > 0).all() and bool(
        jnp.all(state.has_current_model)
    )


def test_channels_and_links_with_memory_survive_outages():
    e = experiment(
        prune_kind="channel", prune_rate=(0.0, 0.25, 0.5, 0.5), outage_snr_db=25.0,
        prune_ramp_rounds=4, smashed="feedback(topk(0.2))", model_down="uniform(8)",
        cell_radius_m=500.0,
    )  # fmt: skip
    state, record = e.rounds(8)(e.data, e.key, e.init(), 8)
    arrived = np.asarray(record.took_part)
    assert 0 < arrived.sum() < arrived.size
    leaves = jax.tree.leaves((state.server, state.aggregator, state.clients.params))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_taylor_scores_stay_when_no_activation_arrives_in_time():
    changes = {"prune_kind": "mask", "prune_score": "taylor", "outage_snr_db": None}
    e = experiment(**changes, aggregate_every=1, deadline_s=1e-9)
    before = jax.tree.map(np.asarray, e.init())
    state, record = e.rounds(1)(e.data, e.key, e.init(), 1)
    assert not np.asarray(record.took_part).any() and state.has_current_model.all()
    assert_equal(state.aggregator.pruning, before.aggregator.pruning)


@pytest.mark.parametrize("away", [[0], list(range(CLIENTS))])
def test_evaluation_uses_the_current_masks_whoever_has_old_ones(setting, away):
    e, without, evaluate = setting
    state, _ = without([])(e.init())
    state, _ = without(away)(state)
    shuffled = jax.tree.map(lambda m: m.at[0].set(~m[0]), state.clients.masks)
    other = state.replace(clients=state.clients.replace(masks=shuffled))
    assert not bool(state.has_current_model[0])
    assert_equal(evaluate(state), evaluate(other))


def test_who_is_drawn_out_of_reach_has_nothing_of_the_client_before_it():
    e = experiment(participants=2, client_gradient="feedback(topk(0.05))", prune_score="random")
    state, run, newcomers = e.init(), rounds_by_gain(e), 0
    kept, draw, masks = (
        jax.jit(functools.partial(f, e.spec, *more))
        for f, *more in ((memories,), (draw_period, e.key), (masks_of, e.key))
    )
    for period in range(3):
        before, left = kept(state), set(state.participants.tolist())
        ids = draw(state).participants.tolist()
        new, away, slot = max((n not in left, n, slot) for slot, n in enumerate(ids))
        newcomers += new
        for _ in range(2):
            state, _ = run(gain_without(e, [away]), state)
            client = row(state.clients, slot)
            assert client.number == away and not state.has_current_model[slot]
            assert_equal(row(kept(state), away), row(before, away))
            start = state.replace(round=jnp.int32(2 * period))
            assert_equal(client.masks, masks(start, jnp.int32(away)))
    assert newcomers > 1
