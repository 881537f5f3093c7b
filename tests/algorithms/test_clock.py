"""What rivals take on the simulated clock."""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_equal, plain, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.rounds import RoundRecord
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.clock import costs_of, from_plain, to_plain
from jfedsl.run.plots.timeline import segments
from jfedsl.wireless.cost import Cost

CLIENTS, STEPS, BATCH = 3, 2, 8


def priced(algorithm: str, **changes: Any) -> tuple[Experiment, RoundRecord, Cost]:
    """The first round of a run, a whole period, with its cost."""
    common = {"clients": CLIENTS, "local_steps": STEPS, "network": "macro_cell"}
    if "edges" in {option.name for option in ALGORITHMS[algorithm].options}:
        common["edges"] = CLIENTS
    e = build(plain(algorithm=algorithm, batch_size=BATCH, **(common | changes)))
    record = e.rounds(1)(e.data, e.key, e.init(), 1)[1]
    cost = costs_of(e)(e.data, record)
    return e, *jax.device_get(jax.tree.map(lambda x: x[0], (record, cost)))


# The other clocks add up in the tests below.
ADDED_UP = ("fedsl", "sfl_v1", "fedavg", "local_loss")


@pytest.mark.parametrize(
    "algorithm",
    [a if a in ADDED_UP else slow(a) for a in ALGORITHMS],
)
def test_seconds_of_every_participant_add_up(algorithm: str):
    _, _, cost = priced(algorithm)
    total = cost.compute + cost.uplink + cost.downlink + cost.waiting + cost.server
    np.testing.assert_allclose(total, cost.seconds, rtol=1e-4)
    for n in range(len(cost.waiting)):
        drawn = sum(segment.seconds for segment in segments(cost, n))
        np.testing.assert_allclose(drawn, cost.seconds, rtol=1e-4)


def test_turns_add_up_and_have_the_band_to_themselves():
    e, record, cost = priced("sl")
    _, beside, together = priced("sfl_v2", aggregate_every=1, server_order="exchange")
    at = {n: i for i, n in enumerate(beside.participants.tolist())}
    for i, n in enumerate(record.participants.tolist()):
        assert record.conditions.up_rate[i] > beside.conditions.up_rate[at[n]]
    bits = 8.0 * (record.sent["smashed_up"].sum(axis=0) + record.sent["model_up"])
    np.testing.assert_allclose(cost.uplink, bits / record.conditions.up_rate, rtol=1e-5)
    busy = cost.compute + cost.uplink + cost.downlink
    np.testing.assert_allclose(cost.seconds, busy.sum() + cost.server, rtol=1e-5)
    np.testing.assert_allclose(cost.server, together.server, rtol=1e-5)
    rows = [segments(cost, n) for n in range(CLIENTS)]
    begin = [next(s.start for s in row if s.kind == "model down") for row in rows]
    assert begin == sorted(begin) and begin[0] == 0 < begin[1]
    assert e.spec.aggregate_every == 1


def test_turns_of_sfl_v2_begin_and_end_with_what_all_do_together():
    e, record, cost = priced("sfl_v2")
    now, radio = record.conditions, e.spec.radio
    up, down = (8.0 * x[0] for x in (record.sent["smashed_up"], record.sent["cut_gradient_down"]))
    model = [8.0 * x for x in (record.sent["model_down"], record.sent["model_up"])]
    server = CLIENTS * STEPS * radio.flop_counts.server / radio.network.server_flops
    alone = down / now.lone_down_rate + now.backward + now.forward + up / now.lone_up_rate
    together = [
        model[0] / now.down_rate, now.forward + up / now.up_rate,
        down / now.down_rate + now.backward, model[1] / now.up_rate,
    ]  # fmt: skip
    expected = sum(x.max() for x in together) + server + (STEPS - 1) * alone.sum()
    np.testing.assert_allclose(cost.seconds, expected, rtol=1e-5)
    np.testing.assert_allclose(cost.compute, STEPS * (now.forward + now.backward), rtol=1e-5)
    uplink = (up + model[1]) / now.up_rate + (STEPS - 1) * up / now.lone_up_rate
    np.testing.assert_allclose(cost.uplink, uplink, rtol=1e-5)
    # Turns come in the order of the record: each waits for those before it.
    rows = [segments(cost, n) for n in range(CLIENTS)]
    second = [[s.start for s in row if s.kind == "forward"][1] for row in rows]
    assert second == sorted(second)
    assert all(row[-1].seconds > 0 and [s.kind for s in row].count("server") == 6 for row in rows)


def test_clients_of_fedavg_wait_for_nobody_but_at_the_ends_of_a_period():
    _, record, cost = priced("fedavg", aggregate_every=1)
    now = record.conditions
    down, up = (8.0 * n for n in (record.sent["model_down"], record.sent["model_up"]))
    passes = STEPS * (now.forward + now.backward)
    slowest = [x.max() for x in (down / now.down_rate, passes, up / now.up_rate)]
    np.testing.assert_allclose(cost.seconds, sum(slowest), rtol=1e-5)
    assert cost.server == 0
    assert cost.compute_joules.min() > 0


def test_centralized_training_takes_the_server_alone():
    e, _, cost = priced("centralized")
    sizes = [w.size for w in jax.tree.leaves(e.initial.params) if w.ndim > 1]
    steps = CLIENTS * STEPS
    products = 2 * BATCH * (3 * sum(sizes) - sizes[0])  # no gradient by the images
    least = steps * products / e.spec.radio.network.server_flops
    assert least <= cost.seconds <= 1.1 * least
    assert not cost.compute_joules.any() and not cost.transmit_joules.any()


def test_a_client_of_fedavg_out_of_reach_trains_and_is_not_waited_for():
    away = {"outage_snr_db": 200.0, "outage_timeout_s": 1e6}
    e = build(plain(algorithm="fedavg", clients=2, network="macro_cell", aggregate_every=3, **away))
    state = e.init()
    # Holding the model of a period that has begun.
    state = state.replace(round=state.round + 1, has_current_model=np.ones(2, bool))
    state, record = e.rounds(1)(e.data, e.key, state, 1)
    assert record.took_part[0].all() and (state.clients.batches_seen == 1).all()
    assert costs_of(e)(e.data, record).seconds[0] < 1e6


def test_clients_with_losses_of_their_own_never_wait_for_the_server():
    e, record, cost = priced("local_loss", aggregate_every=1, upload_every=STEPS)
    now, radio = record.conditions, e.spec.radio
    ends = [
        8.0 * record.sent["model_down"] / now.down_rate,
        8.0 * record.sent["model_up"] / now.up_rate,
    ]
    sent = 8.0 * record.sent["smashed_up"]
    assert (sent[0] > 0).all() and not sent[1:].any(), "one upload in a round"
    path = STEPS * (now.forward + now.backward) + sent.sum(axis=0) / now.up_rate
    server = CLIENTS * radio.flop_counts.server / radio.network.server_flops
    middle = max(path.max(), server)
    np.testing.assert_allclose(cost.seconds, ends[0].max() + middle + ends[1].max(), rtol=1e-5)
    slow = radio._replace(network=radio.network._replace(server_flops=1e3))
    late = e.spec.algorithm.clock(e.spec._replace(radio=slow), record)
    server = CLIENTS * radio.flop_counts.server / 1e3
    np.testing.assert_allclose(late.seconds, ends[0].max() + server + ends[1].max(), rtol=1e-5)


def test_clients_wait_for_the_answer_that_they_fit_their_heads_to():
    """Three exchanges; the second one is the first upload of a period with a fit."""
    e, record, _ = priced("sage", aggregate_every=1, local_steps=3, upload_every=2)
    now, radio = record.conditions, e.spec.radio
    order = np.array([1, 0, 2])  # of the exchanges, so that there is one before the answer
    moved = record.replace(sent={
        name: count[order] if count.ndim == 2 else count for name, count in record.sent.items()
    })  # fmt: skip
    up, down = (8.0 * moved.sent[name] for name in ("smashed_up", "cut_gradient_down"))
    assert [bool(x.any()) for x in up] == [False, True, True]
    assert [bool(x.all()) for x in down] == [False, True, False] == [bool(x.any()) for x in down]
    cost = jax.device_get(e.spec.algorithm.clock(e.spec, moved))
    ends = [8.0 * moved.sent[n] for n in ("model_down", "model_up")]
    passes = now.forward + now.backward
    fit = np.asarray(radio.flop_counts.fit / radio.deployment.hardware.flops)[moved.participants]
    server = CLIENTS * radio.flop_counts.server / radio.network.server_flops
    first = passes + now.forward + up[1] / now.up_rate
    second = down[1] / now.down_rate + fit + now.backward + passes + up[2] / now.up_rate
    middle = first.max() + server + max(second.max(), server)
    seconds = (ends[0] / now.down_rate).max() + middle + (ends[1] / now.up_rate).max()
    np.testing.assert_allclose(cost.seconds, seconds, rtol=1e-5)
    np.testing.assert_allclose(cost.compute, 3 * passes + fit, rtol=1e-5)
    assert (fit > 0).all()
    for n in range(CLIENTS):
        drawn = segments(cost, n)
        np.testing.assert_allclose(sum(s.seconds for s in drawn), cost.seconds, rtol=1e-4)
        kinds = [s.kind for s in drawn if s.kind not in ("waiting", "model down", "model up")]
        assert kinds[:6] == [
            "forward", "activations up", "server", "gradients down", "backward", "forward"
        ]  # fmt: skip


def test_an_exchange_with_a_tail_has_four_legs_on_the_air():
    e, record, cost = priced("u_shape", aggregate_every=1)
    now, radio = record.conditions, e.spec.radio
    counts, speed = radio.flop_counts, radio.deployment.hardware.flops[record.participants]
    bits = {column: 8.0 * sent for column, sent in record.sent.items()}
    there, back = (bits[name][0] for name in ("tail_input_down", "tail_gradient_up"))
    tail = counts.tail / speed
    server = CLIENTS * counts.server / radio.network.server_flops
    legs = (
        now.forward + bits["smashed_up"][0] / now.up_rate,
        there / now.down_rate + tail + back / now.up_rate,
        bits["cut_gradient_down"][0] / now.down_rate + now.backward,
    )  # fmt: skip
    ends = bits["model_down"] / now.down_rate, bits["model_up"] / now.up_rate
    exchange = sum(leg.max() for leg in legs) + server
    whole = STEPS * exchange + sum(end.max() for end in ends)
    np.testing.assert_allclose(cost.seconds, whole, rtol=1e-5)
    np.testing.assert_allclose(cost.compute, STEPS * (now.forward + tail + now.backward), rtol=1e-5)
    np.testing.assert_allclose(cost.server, STEPS * server, rtol=1e-5)
    up = bits["smashed_up"] + bits["tail_gradient_up"]
    np.testing.assert_allclose(cost.uplink, (up.sum(0) + bits["model_up"]) / now.up_rate, rtol=1e-5)
    total = cost.compute + cost.uplink + cost.downlink + cost.waiting + cost.server
    np.testing.assert_allclose(total, cost.seconds, rtol=1e-4)
    slowest = int(np.argmin(cost.waiting))
    kinds = [segment.kind for segment in segments(cost, slowest) if segment.kind != "waiting"]
    exchange_kinds = [
        "forward", "activations up", "server", "activations down", "tail", "gradients up",
        "server", "gradients down", "backward",
    ]  # fmt: skip
    assert kinds == ["model down", *STEPS * exchange_kinds, "model up"]
    drawn = sum(segment.seconds for segment in segments(cost, slowest))
    np.testing.assert_allclose(drawn, cost.seconds, rtol=1e-4)
    last = jax.device_get((cost, record.participants))
    assert_equal(from_plain(json.loads(json.dumps(to_plain(last)))), last)


def by_hand(e: Experiment, away: int | None = None) -> RoundRecord:
    """A round of `broadcast` in the middle of a period, in round numbers."""
    shapes = jax.eval_shape(e.rounds(1), e.data, e.key, e.init(), 1)[1]
    record = jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), shapes)
    there = np.array([n != away for n in range(CLIENTS)])
    lone_down = np.array([1e5, 2e5, 4e5], np.float32)
    conditions = record.conditions.replace(
        up_rate=np.full(CLIENTS, 1e5, np.float32), lone_down_rate=lone_down,
        down_rate=lone_down / 2, reachable=there,
        forward=np.array([0.1, 0.2, 0.3], np.float32),
        backward=np.array([0.0, 0.2, 0.4], np.float32),
    )  # fmt: skip
    took_part = np.tile(there, (STEPS, 1))
    down = {"shared_gradient_down": 6144 * took_part, "cut_gradient_down": 2048 * took_part}
    up = {"smashed_up": np.full((STEPS, CLIENTS), 8196)}
    return record.replace(
        conditions=conditions, sent={**record.sent, **up, **down}, took_part=took_part,
        has_current_model=np.ones(CLIENTS, bool), participants=np.arange(CLIENTS),
    )  # fmt: skip


def test_a_broadcast_by_hand():
    """8 positions of 256 entries and 4 bits a label up, of which one message answers 6."""
    settings = plain(
        algorithm="broadcast", broadcast_share=0.75, network="macro_cell", outage_snr_db=-50.0,
        clients=CLIENTS, local_steps=STEPS, batch_size=BATCH, aggregate_every=2,
    )  # fmt: skip
    e = build(settings)
    radio = e.spec.radio._replace(
        network=e.spec.radio.network._replace(server_flops=1e12),
        flop_counts=e.spec.radio.flop_counts._replace(server=1e10),
    )
    spec = e.spec._replace(radio=radio)
    cost = jax.device_get(spec.algorithm.clock(spec, by_hand(e)))
    # Up, 65,568 bits each; then the server for each; then 49,152 bits for all over the whole band
    # at the slowest one's 1e5 bit/s, and 16,384 bits for each on its own part of the band.
    up, shared, rest = 0.65568 + 0.3, 0.49152, [0.32768, 0.16384, 0.08192]
    exchange = up + 3 * 0.01 + shared + rest[2] + 0.4
    np.testing.assert_allclose(cost.seconds, STEPS * exchange, rtol=1e-5)
    np.testing.assert_allclose(cost.downlink, [STEPS * (shared + x) for x in rest], rtol=1e-5)
    joules = 0.2 * STEPS * 0.65568  # of 0.2 W; receiving costs devices nothing
    np.testing.assert_allclose(cost.transmit_joules, joules, rtol=1e-4)
    # Without the slowest one the message goes at 2e5 bit/s; what that one sends is in vain.
    cost = jax.device_get(spec.algorithm.clock(spec, by_hand(e, away=0)))
    exchange = up + 2 * 0.01 + shared / 2 + rest[2] + 0.4
    np.testing.assert_allclose(cost.seconds, STEPS * exchange, rtol=1e-5)
    expected = [0.0, *(STEPS * (shared / 2 + x) for x in rest[1:])]
    np.testing.assert_allclose(cost.downlink, expected, rtol=1e-5)
    np.testing.assert_allclose(cost.transmit_joules, joules, rtol=1e-4)


def test_a_broadcast_takes_no_share_of_the_band():
    """Shares by `minmax` finish the uplink soonest, and no more of an exchange depends on them."""
    e, record, _ = priced("broadcast", aggregate_every=2, allocation="minmax")
    even = e.spec._replace(radio=e.spec.radio._replace(allocation="equal"))
    state, now = e.init(), jax.jit(partial(round_conditions, even))
    equal = now(e.key, jnp.int32(0), record.participants, state.clients)
    spread, exchanges = [], []
    for conditions in (record.conditions, equal):
        cost = e.spec.algorithm.clock(e.spec, record.replace(conditions=conditions))
        ready = conditions.forward + 8.0 * record.sent["smashed_up"][0] / conditions.up_rate
        radio = e.spec.radio
        server = CLIENTS * radio.flop_counts.server / radio.network.server_flops
        shared = 8.0 * record.sent["shared_gradient_down"][0, 0] / equal.lone_down_rate.min()
        exchange = ready.max() + server + shared + conditions.backward.max()
        start = (8.0 * record.sent["model_down"] / conditions.down_rate).max()
        np.testing.assert_allclose(cost.seconds, start + STEPS * exchange, rtol=1e-5)
        spread.append(np.ptp(ready) / ready.max())
        exchanges.append(exchange)
    assert spread[0] < 1e-4 < spread[1] and exchanges[0] < exchanges[1]


@pytest.mark.slow
def test_nobody_waits_for_an_upload_of_a_client_out_of_reach():
    """One client hears next to nothing."""
    e, record, _ = priced("local_loss", aggregate_every=2, outage_snr_db=-50.0)
    reachable = np.array([True, True, False])
    crawl = np.where(reachable, 1.0, 1e-9).astype(np.float32)
    now = record.conditions
    rates = {
        name: getattr(now, name) * crawl
        for name in ("up_rate", "down_rate", "lone_up_rate", "lone_down_rate")
    }
    without = record.replace(
        conditions=now.replace(reachable=reachable, **rates),
        sent={**record.sent, "model_down": record.sent["model_down"] * reachable},
    )
    assert 0 < float(e.spec.algorithm.clock(e.spec, without).seconds) < 1e6
