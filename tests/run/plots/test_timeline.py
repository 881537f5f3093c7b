"""A round's timeline is the round's cost, moment by moment."""

from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.run.plots import arrivals
from jfedsl.run.plots.bars import COLOURS
from jfedsl.run.plots.style import save
from jfedsl.run.plots.timeline import segments, timeline
from jfedsl.wireless.arrivals import ServerStep, Trip, Underway
from jfedsl.wireless.cost import Cost, Sent, round_cost
from jfedsl.wireless.network import MACRO_CELL
from jfedsl.wireless.radio import Conditions, Deployment, FlopCounts, Radio, RadioHardware
from jfedsl.wireless.stages import Stage

ON_THE_AIR = {"model down", "activations up", "gradients down", "model up", "sent in vain"}
OF_ARRIVALS = ("receiving", "computing", "sending")
OF_ARRIVALS = {"receiving", "computing", "sending"}
OF_A_TAIL = {"activations down", "tail", "gradients up"}
ORDER = ["forward", "activations up", "server", "gradients down", "backward"]


@partial(jax.jit, static_argnums=1)
def some_cost(key: jax.Array, one_by_one: bool) -> Cost:
    """Of a round in which some are out of reach and some too late."""
    keys = iter(jax.random.split(key, 10))
    rates = [10 ** jax.random.uniform(next(keys), (6,), minval=4, maxval=7) for _ in range(2)]
    passes = [10 ** jax.random.uniform(next(keys), (6,), minval=-3, maxval=0) for _ in range(2)]
    there, has_current_model = (jax.random.bernoulli(next(keys), p, (6,)) for p in (0.7, 0.8))
    arrived = jax.random.bernoulli(next(keys), 0.8, (3, 6)) & (there & has_current_model)[None]
    bits = 10 ** jax.random.uniform(next(keys), (4, 6), minval=3, maxval=7)
    exchanged = bits[:2, None] * jnp.ones((1, 3, 1))
    sent = Sent(
        exchanged[0] * has_current_model[None].astype(float), exchanged[1] * arrived.astype(float),
        bits[2] * has_current_model.astype(float), bits[3], arrived, has_current_model,
    )  # fmt: skip
    one, none = jnp.ones(6), jnp.zeros((1, 1))
    work, deployment = FlopCounts(none, none, 1e12), Deployment(RadioHardware(one, one, one), none)
    radio = Radio(MACRO_CELL, deployment, work, "equal", False, None, 0.5, 2.0)
    conditions = Conditions(*rates, *passes, there, *(10 * rate for rate in rates))
    return round_cost(radio, jnp.arange(6), conditions, sent, one_by_one)


def handmade(count: int, steps: int) -> Cost:
    """A round in which participant n takes 1 + n times as long as the first one."""
    factors = 1 + np.arange(count, dtype=np.float64)

    def stage(*lead: int, computes: float, sends: float) -> Stage:
        whole = np.full(lead, (computes + sends) * count)
        spread = np.ones((*lead, count)) * factors
        critical, done = np.full(lead, computes * count), np.ones((*lead, count), bool)
        return Stage(whole, computes * spread, sends * spread, critical, done)

    first, last = stage(computes=0, sends=2), stage(computes=0, sends=3)
    up, down = stage(steps, computes=1, sends=4), stage(steps, computes=2, sends=0.5)
    server = np.full(steps, 1.5)
    seconds = count * (2 + 3 + 7.5 * steps) + 1.5 * steps
    busy = factors * (5 + 7.5 * steps)
    return Cost(
        seconds=seconds, compute_seconds=0.0, communication_seconds=seconds,
        server=server.sum(), compute=3 * steps * factors, uplink=(4 * steps + 3) * factors,
        downlink=(0.5 * steps + 2) * factors, waiting=seconds - server.sum() - busy,
        compute_joules=0 * factors, transmit_joules=0 * factors, lost=0.0,
        stages=(first, up, server, down, last),
    )  # fmt: skip


def assert_is_the_cost(cost: Cost, participant: int) -> None:
    total, now = Counter[str](), 0.0
    for kind, start, seconds in segments(cost, participant):
        assert kind in COLOURS and seconds > 0 and start == now
        now += seconds
        total[kind] += seconds
    parts = {
        "seconds": now,
        "server": total["server"],
        "compute": total["forward"] + total["backward"],
        "on the air": sum(seconds for kind, seconds in total.items() if kind in ON_THE_AIR),
        "waiting": total["waiting"] + total["exchange lost"],
    }
    for name, seconds in parts.items():
        expected = cost.uplink + cost.downlink if name == "on the air" else getattr(cost, name)
        expected = expected[participant] if np.ndim(expected) else expected
        np.testing.assert_allclose(
            seconds, expected, rtol=1e-5, atol=1e-5 * cost.seconds, err_msg=name
        )


@given(st.integers(0, 1000), st.booleans())
def test_segments_are_the_cost(seed: int, one_by_one: bool) -> None:
    cost = jax.device_get(some_cost(jax.random.key(seed), one_by_one))
    for participant in range(6):
        assert_is_the_cost(cost, participant)


def test_segments_come_in_order() -> None:
    cost = handmade(3, 2)
    for participant in range(3):
        assert_is_the_cost(cost, participant)
    slowest = [s.kind for s in segments(cost, 2)]
    assert slowest == ["model down", *ORDER, *ORDER, "model up"]
    assert [s.start for s in segments(cost, 2)[:4]] == [0, 6, 9, 21]
    quick = [s.kind for s in segments(cost, 0)]
    assert [kind for kind in quick if kind != "waiting"] == slowest
    assert quick.count("waiting") == 2 + 2 * 2
    assert all(quick[quick.index(kind) + 1] == "waiting" for kind in ("model down", "backward"))


def test_lost_exchanges_are_seen() -> None:
    cost = handmade(2, 2)
    first, up, _, down, last = cost.stages
    for stage, step in ((first, ()), (up, (0,)), (down, (0,)), (last, ())):
        stage.done[(*step, 0)] = False
    down.computing[0, 0] = down.sending[0, 0] = 0
    vain, lost = "sent in vain", "exchange lost"
    first_exchange = ["forward", vain, lost, "server", lost]
    second = [kind for one in ORDER for kind in ([one, "waiting"] if one in ORDER[1::3] else [one])]
    expected = [vain, "waiting", *first_exchange, *second, vain, "waiting"]
    assert [s.kind for s in segments(cost, 0)] == expected
    assert {vain, lost}.isdisjoint(s.kind for s in segments(cost, 1))
    assert_is_the_cost(cost, 1)


def test_who_takes_no_part_waits() -> None:
    cost = handmade(2, 1)
    for stage in cost.stages:
        if isinstance(stage, Stage):
            stage.computing[..., 0] = stage.sending[..., 0] = 0
    assert {s.kind for s in segments(cost, 0)} == {"waiting", "server"}
    assert sum(s.seconds for s in segments(cost, 0)) == cost.seconds


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (5, 3), (40, 50)])
def test_a_picture(count: int, steps: int, tmp_path: Path) -> None:
    ids = np.arange(count) + 100
    cost = handmade(count, steps)
    cost.stages[1].done[0, : count // 5] = False
    figure = timeline(cost, ids, "Round 7")
    save(figure, tmp_path / "timeline.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "timeline.png").shape
    assert 1000 <= width <= 2000 and 250 <= height <= 1200
    (axis,) = figure.axes
    drawn = min(count, 16)
    names = [label.get_text() for label in axis.get_yticklabels()]
    shown = ids[::-1][:drawn] if count < 40 else [*ids[::-1][:12], *ids[7:3:-1]]
    assert names == ["server", *(f"client {i}" for i in shown)], "slowest first"
    said = "the 12 of 40 that wait least, 4 of 8 that lost exchanges" if count == 40 else ""
    assert axis.get_title(loc="left") == said
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    kinds = [kind for kind in COLOURS if kind not in OF_A_TAIL | OF_ARRIVALS]
    assert legend == kinds[: None if count > 1 else -2]


def test_a_round_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    nothing = jax.tree.map(np.zeros_like, handmade(2, 1))
    assert segments(nothing, 0) == []
    save(timeline(nothing, np.arange(2)), tmp_path / "timeline.png")


def test_a_picture_of_a_server_that_does_not_wait() -> None:
    """Two steps of two clients each: one is under way at both ends of the round."""
    trip = Trip(*(np.array([[a, a, a], [a, a, a]], np.float32) for a in (1.0, 2.0, 3.0)))
    underway = Underway(
        np.array([[0, -1, -5], [0, 0, -11.5]], np.float32), trip, np.array([[0, 2, 0], [0, 0, 1]])
    )
    taken = np.array([[True, True, False], [True, False, True]])
    steps = ServerStep(
        np.array([6.0, 6.0], np.float32), np.full(2, 0.5, np.float32), taken, underway, ~taken
    )
    found = [list(arrivals.segments(steps, n, np.array([6.5, 13.0]))) for n in range(3)]
    assert [(s.kind, s.start, s.seconds) for s in found[0]] == [
        ("receiving", 0, 1), ("computing", 1, 2), ("sending", 3, 3), ("waiting", 6, 0.5),
        ("receiving", 6.5, 1), ("computing", 7.5, 2), ("sending", 9.5, 3), ("waiting", 12.5, 0.5),
    ]  # fmt: skip
    assert [s.kind for s in found[1]] == [
        "computing", "sending", "waiting", "receiving", "computing", "sending", "waiting"
    ]  # fmt: skip
    assert found[1][0].seconds == 2 and found[1][2].seconds == 1.5
    assert [(s.kind, s.start, s.seconds) for s in found[2]] == [
        ("sending", 0, 1), ("waiting", 1, 12)
    ]  # fmt: skip
    (axis,) = arrivals.figure_of(steps, np.arange(3) + 7, "").axes
    texts = sorted((t.get_text().strip(), t.get_position()) for t in axis.texts)
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert texts == [
        ("1", (12.5, rows.index("client 9"))), ("2", (6.0, rows.index("client 8")))
    ]  # fmt: skip
