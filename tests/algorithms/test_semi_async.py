"""A server that does not wait for all: what it trains, when, and what it counts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, plain, setup, slow
from jax import lax

from jfedsl.algorithms import semi_async
from jfedsl.config.canonical import refuse_idle
from jfedsl.engine import arrivals, staleness
from jfedsl.engine.partial_average import Returned, average_returned
from jfedsl.engine.participants import of_some
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.wireless.arrival_cost import cost_of_steps
from jfedsl.wireless.schedule import Rules, first_schedule, steps_of_round

ROUNDS = 4


NETWORK = {"network": "macro_cell"}
CHANNELS = {"prune_kind": "channel", "prune_rate": (0.5,), "client_optimizer_state": "reset"}


def trained(rounds: int = ROUNDS, in_steps: bool = False, **changes: Any) -> tuple[Any, Any, Any]:
    """An experiment, and the state and records after some rounds.

    Args:
      rounds: how many.
      in_steps: whether the server takes messages step by step even with a quorum of all.
      changes: settings.
    """
    experiment = build(plain(**NETWORK, **changes))
    spec = experiment.spec
    if in_steps:
        algorithm = spec.algorithm._replace(
            run_round=semi_async.run_steps, init_state=arrivals.first_progress
        )
        experiment = experiment._replace(spec=spec._replace(algorithm=algorithm))
    run = experiment.rounds(rounds)
    return experiment, *run(experiment.data, experiment.key, experiment.init(), rounds)


def seconds_of(experiment: Any, record: Any) -> np.ndarray:
    """Simulated seconds of each round."""
    clock = functools.partial(experiment.spec.algorithm.clock, experiment.spec)
    return np.asarray(jax.jit(jax.vmap(clock))(record).seconds)


@pytest.mark.parametrize(
    "changes",
    [
        {"local_steps": 2, "aggregate_every": 2, "momentum": 0.9, **CHANNELS},
        slow({"local_steps": 2, "model": "cnn", "dropout_rate": 0.3, "cut_gradient_bits": 8}),
    ],
)
def test_a_quorum_of_all_is_fedsl_and_its_steps_train_the_same(changes: dict[str, Any]) -> None:
    e, expected, together = trained(algorithm="fedsl", **changes)
    for in_steps in (False, True):
        with_quorum = {"algorithm": "semi_async", "quorum": 4}
        mine, state, record = trained(in_steps=in_steps, **with_quorum, **changes)
        same = functools.partial(assert_close, rtol=1e-4) if in_steps else assert_equal
        for part in ("server", "aggregator", "clients"):
            same(getattr(state, part), getattr(expected, part))
        ratio = seconds_of(mine, record).sum() / seconds_of(e, together).sum()
        if in_steps:
            # Nobody waits here until all others have stepped.
            assert 0.3 < ratio < 1
            for column, count in record.sent.items():
                np.testing.assert_array_equal(count.sum(), together.sent[column].sum())
            assert_close(record.train_loss, together.train_loss)
            np.testing.assert_array_equal(record.mask_overlap, together.mask_overlap)
        else:
            assert ratio == 1
            assert_equal(record.replace(reported={}), together)


def test_events_come_in_the_order_of_a_simulation_and_count_as_they_should() -> None:
    """The whole protocol by absolute times: messages are activations, or parts after a period."""
    steps, quorum, clients, rounds = 2, 2, 5, 8
    e, state, record = trained(
        rounds, algorithm="semi_async", quorum=quorum, clients=clients, local_steps=steps,
        aggregate_every=2, staleness="hinge(0.5,1)", device_classes="2*phone,3*sensor",
    )  # fmt: skip
    radio, record = e.spec.radio, jax.tree.map(np.asarray, record)
    bits = jax.tree.map(np.asarray, e.init().algorithm_state.bits)
    serving = radio.flop_counts.server / radio.network.server_flops
    made, kind = record.server_steps, ["model"] * clients
    now, version, done, received = 0.0, 0, [0] * clients, [0] * clients
    tasks = np.zeros((clients, 3))  # bits to receive, seconds to compute, bits to send
    begun, ends = np.zeros(clients), np.zeros(clients)

    def rates(round_: int) -> np.ndarray:
        at = record.conditions
        return np.stack([at.down_rate[round_], np.ones(clients), at.up_rate[round_]], 1)

    def set_out(n: int, round_: int) -> None:
        anew, returns, at = kind[n] == "model", kind[n] == "part", record.conditions
        tasks[n] = (
            (bits.model_down if anew else bits.down)[n],
            (0 if anew else at.backward[round_, n]) + (0 if returns else at.forward[round_, n]),
            (bits.model_up if returns else bits.up)[n],
        )
        begun[n], ends[n] = now, now + (tasks[n] / rates(round_)[n]).sum()

    def change_rates(n: int, round_: int) -> None:
        """What is left of a task since its last change of rates goes on at those of this round."""
        spent = now - since[n]
        for part, rate in enumerate(rates(round_ - 1)[n]):
            used = min(spent, tasks[n, part] / rate)
            tasks[n, part], spent = tasks[n, part] - used * rate, spent - used
        ends[n] = now + (tasks[n] / rates(round_)[n]).sum()

    answered, busy, since = list(range(clients)), 0.0, np.zeros(clients)
    for round_ in range(rounds):
        start = now
        for n in set(range(clients)) - set(answered):
            if ends[n] > now:
                change_rates(n, round_)
                since[n] = now
        for i in range(steps + (round_ % 2 == 1)):
            for n in answered:
                received[n] = version if kind[n] == "model" else received[n]
                set_out(n, round_)
                since[n] = now
            answered = sorted(np.argsort(ends, kind="stable")[:quorum].tolist())
            busy += sum(ends[n] - begun[n] for n in answered)
            exchanging = [n for n in answered if kind[n] != "part"]
            ages = [version - received[n] for n in answered if kind[n] == "part"]
            now = max(now, *ends[answered]) + serving * len(exchanging)
            assert np.flatnonzero(made.taken[round_, i]).tolist() == answered
            assert np.flatnonzero(record.took_part[round_, i]).tolist() == exchanging
            age = record.reported["staleness"]
            assert age.values[round_, i][age.valid[round_, i]].tolist() == ages
            version += bool(ages)
            for n in answered:
                done[n] = 0 if kind[n] == "part" else done[n] + 1
                kind[n] = "model" if kind[n] == "part" else "gradient"
                if done[n] == 2 * steps:
                    kind[n] = "part"
        if round_ % 2 == 0:
            assert not made.taken[round_, steps].any()
        seconds = (made.waited[round_] + made.serving[round_]).sum()
        np.testing.assert_allclose(seconds, now - start, rtol=1e-5)
    assert version == int(state.algorithm_state.averages) > 2
    # The planner's schedule, without training, is that of the run.
    rules = Rules(quorum, 0, steps, 2)

    def alone(schedule: Any, at: Any) -> Any:
        return steps_of_round(rules, radio, bits, *at, schedule)

    each = record.conditions, jnp.arange(rounds)
    replayed = jax.jit(lambda: lax.scan(alone, first_schedule(clients), each)[1])()
    assert_close(replayed, made, rtol=1e-5)
    # Every trip counts once: in the rounds that it reaches into, or after the last one.
    cost = jax.vmap(lambda r: cost_of_steps(radio, r.participants, r.server_steps))(record)
    cost = jax.tree.map(np.asarray, cost)
    away = [n for n in range(clients) if n not in answered]
    busy += sum(min(now, ends[n]) - begun[n] for n in away)
    parts = cost.compute + cost.uplink + cost.downlink
    np.testing.assert_allclose(parts.sum(), busy, rtol=1e-4)
    np.testing.assert_allclose(cost.seconds.sum(), now, rtol=1e-5)
    assert (cost.compute_seconds <= cost.seconds).all()
    # All of the time that the server waits in, a client makes trips or waits too.
    server = cost.server.sum()
    assert clients * (now - server) - 1e-4 <= parts.sum() + cost.waiting.sum() <= clients * now


def test_parts_move_the_model_by_their_weights_and_ages() -> None:
    """Against NumPy: one fresh part, one that came late, and two clients that go on training."""
    e, state, _ = setup(
        algorithm="semi_async", network="macro_cell", prune_kind="mask", prune_rate=(0.5,),
        prune_score="random", aggregation="examples", partition="dirichlet",
    )  # fmt: skip
    draw = np.random.default_rng(0)

    def noise(x: Any) -> Any:
        return jnp.asarray(draw.normal(size=x.shape), jnp.float32)

    trained = state.replace(
        aggregator=state.aggregator.replace(params=jax.tree.map(noise, state.aggregator.params)),
        clients=state.clients.replace(params=jax.tree.map(noise, state.clients.params)),
        algorithm_state=None,
    )
    received = jax.tree.map(noise, trained.clients.params)
    which, age = np.array([True, True, False, False]), np.array([0, 3, 1, 0], np.int32)
    returned = Returned(jnp.asarray(which), received, jnp.asarray(age))
    after, up, _ = average_returned(
        of_some(e.spec, 4), e.key, e.data.partition, staleness.parse("poly(0.5)"), returned, trained
    )
    sizes = np.asarray(e.data.partition.sizes, np.float64)
    masks = jax.vmap(lambda c: e.spec.pruner.kept(c.masks).params)(trained.clients)
    rows = zip(
        *map(jax.tree.leaves, (trained.clients.params, received, masks)),
        jax.tree.leaves(trained.aggregator.params), jax.tree.leaves(after.aggregator.params),
        strict=True,
    )  # fmt: skip
    for part, before, mask, model, result in rows:
        part, before, model = (np.asarray(x, np.float64) for x in (part, before, model))
        moved = np.stack([part[0], model + 4**-0.5 * (part[1] - before[1]), model, model])
        counts = np.asarray(mask) | ~which.reshape(-1, *(1,) * (part.ndim - 1))
        share = sizes.reshape(-1, *(1,) * (part.ndim - 1)) * counts
        whole = share.sum(axis=0)
        mean = np.where(whole > 0, (share * moved).sum(axis=0) / np.maximum(whole, 1e-9), model)
        assert_close(result, mean)
    trees = after.clients.params, trained.clients.params, after.aggregator.params
    for mine, old, model in zip(*map(jax.tree.leaves, trees), strict=True):
        assert_equal((mine[0], mine[1]), (model, model))
        assert_equal(mine[2:], old[2:])
    assert (np.asarray(up) > 0).tolist() == which.tolist()


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("constant", [1, 1, 1, 1]),
        ("poly(0.5)", [1, 2**-0.5, 3**-0.5, 11**-0.5]),
        ("hinge(2, 1)", [1, 1, 1 / 3, 1 / 19]),
    ],
)
def test_weights_by_age(text: str, weights: list[float]) -> None:
    assert_close(staleness.parse(text)(jnp.array([0.0, 1, 2, 10])), weights)


@pytest.mark.parametrize("text", ["", "poly", "poly(0)", "poly(-1)", "hinge(1)", "linear(2)"])
def test_other_texts_are_no_weights(text: str) -> None:
    assert not staleness.is_valid(text)
    with pytest.raises(ValueError, match=r"constant, poly\(A\)"):
        staleness.parse(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quorum": 5}, "--quorum must be at most 4, the number of participants, not 5"),
        ({"participants": 2}, "--participants must be --clients=4 with --algorithm=semi_async"),
        ({"quorum": 1, "max_staleness": 2}, "--max_staleness must be 0 or at least 3"),
        ({"quorum": 2, "mask_compute": "ideal", "prune_kind": "mask"}, "--mask_compute=ideal has"),
        ({"staleness": "poly(x)"}, "--staleness must be constant, poly"),
        ({"quorum": -1}, "--quorum must be a whole number from 0"),
        ({"prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5, 0.0)}, "one width"),
        (
            {"client_optimizer_state": "average", "momentum": 0.9},
            "--client_optimizer_state must be keep or reset",
        ),
        ({"model_down": "uniform(8)"}, "--model_down=uniform(8) has no effect"),
        ({"staleness": "poly(1)"}, "--staleness=poly(1) has no effect with a --quorum of all"),
        ({"outage_snr_db": 3.0}, "--outage_snr_db"),
        ({"quorum": 2, "network": "none"}, "--network must be a network"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        config = plain(**{"algorithm": "semi_async", "network": "macro_cell", **changes})
        refuse_idle([config])
        build(config).init()
    assert words in str(caught.value) and "\n" not in str(caught.value)
