"""Rates and outages of a round, and the deployment of clients.

Seeds are fixed; frequencies must lie within five standard errors.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, plain
from jax import Array
from scipy import integrate, stats

from jfedsl.keys import fold
from jfedsl.run.assemble import build
from jfedsl.run.assemble.hardware import hardware_of, network_of
from jfedsl.wireless.channel import FADINGS, NEAREST, fading, from_dbm, path_gain
from jfedsl.wireless.network import MACRO_CELL, NETWORKS, WIDEBAND, Network
from jfedsl.wireless.radio import (
    Conditions,
    Deployment,
    FlopCounts,
    Radio,
    RadioHardware,
    conditions,
    deploy,
    fadings,
    mean_gains,
)

CLIENTS = 12
ALL_CLIENTS = tuple(range(CLIENTS))
PRESETS = [name for name, network in NETWORKS.items() if network is not None]

_rng = np.random.default_rng(0)
FORWARD = jnp.asarray(_rng.uniform(0.001, 0.1, CLIENTS), jnp.float32)
BITS = jnp.asarray(10 ** _rng.uniform(4, 6, CLIENTS), jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(
    network: Network, allocation: str, outage: float | None, hardware: RadioHardware, key: Array,
    round_: Array, ids: Array, forward: Array, bits: Array,
) -> Conditions:  # fmt: skip
    empty = jnp.zeros((1, 1))
    flop_counts = FlopCounts(empty, empty, 1.0)
    radio = Radio(
        network, Deployment(hardware, empty), flop_counts, allocation, False, outage, None, None
    )  # fmt: skip
    return conditions(radio, key, round_, ids, forward, 2 * forward, bits)


def drawn(
    network: Network = MACRO_CELL,
    ids: tuple[int, ...] = ALL_CLIENTS,
    seed: int = 0,
    allocation: str = "equal",
    outage: float | None = None,
    round_: int = 0,
) -> Conditions:
    """The conditions of the participants `ids` in one round."""
    participants = jnp.array(ids)
    return _drawn(
        network, allocation, outage, deployed(network), jax.random.key(seed), jnp.int32(round_),
        participants, FORWARD[participants], BITS[participants],
    )  # fmt: skip


def deployed(network: Network, count: int = CLIENTS, seed: int = 0) -> RadioHardware:
    power = np.linspace(*network.device_power_dbm, count)
    return deploy(jax.random.key(seed), network, np.linspace(1e9, 1e10, count), power)


def finish(drawn_conditions: Conditions) -> np.ndarray:
    """When the activations of each client have arrived, `[C]`, s."""
    return np.asarray(drawn_conditions.forward + BITS / drawn_conditions.up_rate)


@pytest.mark.parametrize("name", PRESETS)
def test_equal_shares_agree_with_float64(name):
    network = NETWORKS[name]._replace(fading="none")
    ids = (7, 2, 5)
    hardware = jax.tree.map(lambda x: np.asarray(x, np.float64)[list(ids)], deployed(network))
    round_conditions = drawn(network, ids)
    up, down = network.up_hz / 3, network.down_hz / 3
    strength = hardware.power * hardware.gain / network.noise
    assert_close(round_conditions.up_rate, up * np.log2(1 + strength / up), rtol=1e-5)
    power = 10 ** (network.server_power_dbm / 10 - 3) / 3
    snr = power * hardware.gain / (network.noise * down)
    assert_close(round_conditions.down_rate, down * np.log2(1 + snr), rtol=1e-5)
    assert_equal(round_conditions.forward, FORWARD[np.array(ids)])
    assert_equal(round_conditions.backward, 2 * FORWARD[np.array(ids)])
    assert round_conditions.reachable.all()


@pytest.mark.parametrize("allocation", ["equal", "minmax"])
def test_a_round_repeats_and_the_next_differs(allocation):
    first, again = (drawn(allocation=allocation) for _ in range(2))
    assert_equal(first, again)
    for seed, round_ in ((1, 0), (0, 1)):
        other = drawn(seed=seed, round_=round_, allocation=allocation)
        assert np.all(other.up_rate != first.up_rate) and differs(other.down_rate, first.down_rate)


def test_fading_of_a_client_does_not_depend_on_the_others():
    of_all = drawn()
    for ids in [(3, 8, 1), (0, 8, 3, 11, 10), tuple(reversed(ALL_CLIENTS))]:
        of_some = drawn(ids=ids)
        # Power is proportional to bandwidth, so that the rate per hertz depends on fading only.
        assert_close(len(ids) * of_some.down_rate, CLIENTS * of_all.down_rate[np.array(ids)])
    assert_equal(drawn(ids=(3, 8, 1)).up_rate[1:], drawn(ids=(5, 8, 1)).up_rate[1:])


def test_fading_is_equal_in_both_directions_and_differs_between_clients():
    same_gain = MACRO_CELL._replace(radius=None, gain=(1e-10, 1e-10))
    without = drawn(same_gain._replace(fading="none"))
    faded = drawn(same_gain)
    assert len(np.unique(faded.down_rate)) == CLIENTS
    assert_equal(faded.up_rate > without.up_rate, faded.down_rate > without.down_rate)
    assert_equal(np.argsort(faded.up_rate), np.argsort(faded.down_rate))


# Fading that lasts, and devices that move


@partial(jax.jit, static_argnums=0)
def powers(network: Network, rounds: Array, ids: Array) -> Array:
    """Fading of clients `[K]` in rounds `[R]`, `[R, K]`."""
    key = jax.random.key(7)
    return jax.vmap(lambda round_: fadings(network, key, round_, ids))(rounds)


@pytest.mark.parametrize("kind", FADINGS)
def test_without_memory_every_round_has_the_draw_of_its_own_key(kind):
    network = MACRO_CELL._replace(fading=kind)
    rounds, ids, key = jnp.arange(3), jnp.arange(4), jax.random.key(7)
    alone = jax.jit(lambda r, n: fading(fold(key, r, n), kind, network.rician_factor))
    expected = [[alone(r, n) for n in ids] for r in rounds]
    assert_equal(powers(network, rounds, ids), np.array(expected))
    if kind == "rayleigh":
        first = jax.random.exponential(fold(key, 0, 0), (), jnp.float32)
        assert_equal(expected[0][0], first)


@pytest.mark.parametrize("kind", ["rayleigh", "rician"])
def test_fading_that_lasts_has_the_same_law_and_remembers(kind):
    memory, count = 0.9, 8000
    lasting = MACRO_CELL._replace(fading=kind, fading_memory=memory)
    # Stretches of rounds end at 256.
    drawn_powers = np.asarray(
        powers(lasting, jnp.array([0, 254, 255, 256, 258]), jnp.arange(count)), np.float64
    )
    scale = 1 + lasting.rician_factor if kind == "rician" else 1.0
    law = stats.ncx2(2, 2 * (scale - 1), scale=1 / (2 * scale)) if scale > 1 else stats.expon
    for row in drawn_powers:
        assert stats.kstest(row, law.cdf).pvalue > 1e-3
    between = np.corrcoef(drawn_powers)
    for i, j, distance in ((1, 2, 1), (2, 3, 1), (3, 4, 2), (0, 1, 254)):
        # The direct path makes power depend on the gain itself, too.
        expected, direct = memory ** (2 * distance), 2 * (scale - 1)
        expected = (expected + direct * memory**distance) / (1 + direct)
        assert abs(between[i, j] - expected) <= 5 / math.sqrt(count)
    clients = np.corrcoef(drawn_powers[:, ::2].ravel(), drawn_powers[:, 1::2].ravel())
    assert abs(clients[0, 1]) <= 5 / math.sqrt(count / 2)
    some = powers(lasting, jnp.array([255, 258]), jnp.array([4, 2, 7999]))
    assert_equal(some, drawn_powers[np.ix_([2, 4], [4, 2, 7999])].astype(np.float32))


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_outages_last_as_long_as_the_memory_says(memory):
    threshold, rounds, clients = 0.5, 300, 500
    lasting = MACRO_CELL._replace(fading_memory=memory)
    out = np.asarray(powers(lasting, jnp.arange(rounds), jnp.arange(clients))) < threshold
    outage = -math.expm1(-threshold)
    spread = (1 - memory**2) / 2  # variance of either part, given the round before

    def again(power: float) -> float:
        given = stats.ncx2.cdf(threshold / spread, 2, memory**2 * power / spread)
        return math.exp(-power) * float(given)

    twice = integrate.quad(again, 0, threshold)[0] if memory else outage**2
    starts = out[1:] & ~out[:-1]
    # In the long run there are as many starts as ends, which follow rounds of outage.
    expected = outage - twice
    per_client = starts.mean(axis=0)
    error = per_client.std(ddof=1) / math.sqrt(clients)
    assert abs(per_client.mean() - expected) <= 5 * error
    lengths = {0.0: math.exp(threshold), 0.9: 3.67}
    assert outage / expected == pytest.approx(lengths[memory], abs=0.01), "rounds of an outage"


def test_devices_that_move_have_the_gain_of_their_place():
    still, moving = MACRO_CELL, MACRO_CELL._replace(device_speed=20.0, mobility_step=2.0)
    at_start, placed = deployed(still), deployed(moving)
    assert at_start.motion is None and placed.motion is not None
    assert_equal(placed._replace(motion=None), at_start)
    after, everyone = jnp.int32(7), jnp.arange(CLIENTS)
    assert_equal(mean_gains(still, at_start, after, everyone), at_start.gain)
    assert_close(mean_gains(moving, placed, jnp.int32(0), everyone), at_start.gain, rtol=1e-5)
    moved = mean_gains(moving, placed, after, everyone)
    way = 7 * 2 * 20.0
    start, heading = (np.asarray(x, np.float64) for x in placed.motion)
    straight = np.sqrt(start**2 + way**2 + 2 * start * way * np.cos(heading))
    inside = (straight < still.radius) & (start * np.abs(np.sin(heading)) > NEAREST)
    assert inside.sum() > CLIENTS / 2
    ratios = np.asarray(moved / at_start.gain, np.float64)
    assert_close(ratios[inside], ((straight / start) ** -3.76)[inside], rtol=1e-4)
    shadowed = deployed(moving._replace(shadowing_db=8.0))
    also = mean_gains(moving, shadowed, after, everyone)
    assert_close(also / shadowed.gain, ratios, rtol=1e-5)
    some = mean_gains(moving, placed, after, jnp.array([8, 3]))
    assert_equal(some, moved[np.array([8, 3])])
    # What is drawn of a round has these gains.
    rates = [drawn(n._replace(fading="none"), round_=7).down_rate for n in (still, moving)]
    assert_equal(rates[1] > rates[0], moved > at_start.gain)


@pytest.mark.parametrize("allocation", ["equal", "minmax"])
def test_a_bigger_band_is_never_slower(allocation):
    wider = MACRO_CELL._replace(up_hz=2 * MACRO_CELL.up_hz, down_hz=2 * MACRO_CELL.down_hz)
    for seed in range(8):
        narrow, wide = (drawn(n, seed=seed, allocation=allocation) for n in (MACRO_CELL, wider))
        assert finish(wide).max() <= finish(narrow).max() * (1 + 1e-6)
        if allocation == "equal":
            assert np.all(wide.up_rate > narrow.up_rate)
            assert np.all(wide.down_rate > narrow.down_rate)


@pytest.mark.parametrize("name", ["macro_cell", "wideband"])
def test_with_minmax_all_clients_finish_together(name):
    network = NETWORKS[name]
    for seed in range(4):
        with_equal, with_minmax = (
            drawn(network, seed=seed, allocation=name) for name in ("equal", "minmax")
        )
        ends = finish(with_minmax)
        assert ends.max() <= finish(with_equal).max() * (1 + 1e-6)
        np.testing.assert_allclose(ends, ends.max(), rtol=1e-4)
        # The downlink rate is proportional to the share of the band.
        shares = with_minmax.down_rate / (CLIENTS * with_equal.down_rate)
        assert np.all(shares > 0)
        assert math.isclose(shares.sum(), 1, rel_tol=1e-5)


def test_minmax_divides_the_band_among_reachable_clients():
    outage = 30.0
    with_equal, with_minmax = (
        drawn(allocation=name, outage=outage) for name in ("equal", "minmax")
    )
    assert_equal(with_minmax.reachable, with_equal.reachable)
    reachable = np.asarray(with_equal.reachable)
    assert 0 < reachable.sum() < CLIENTS
    shares = np.asarray(with_minmax.down_rate / (CLIENTS * with_equal.down_rate))
    assert math.isclose(shares[reachable].sum(), 1, rel_tol=1e-5)
    assert_close(shares[~reachable], np.full((~reachable).sum(), 1 / CLIENTS))
    ends = finish(with_minmax)[reachable]
    np.testing.assert_allclose(ends, ends.max(), rtol=1e-4)
    none_reachable = drawn(allocation="minmax", outage=1e9)
    assert np.all(np.isfinite(none_reachable.up_rate))


@pytest.mark.parametrize("threshold", [0.05, 1.0])
@pytest.mark.parametrize(("power", "worse"), [(0.2, "down"), (1e-6, "up")])
def test_outage_probability_is_that_of_the_direction_with_the_lower_snr(threshold, power, worse):
    count, gain, net = 20_000, 1e-9, MACRO_CELL
    mean_snr = {
        "up": power * gain / (net.noise * net.up_hz / count),
        "down": from_dbm(net.server_power_dbm) * gain / (net.noise * net.down_hz),
    }
    assert min(mean_snr, key=mean_snr.__getitem__) == worse
    ones = jnp.ones(count)
    round_conditions = _drawn(
        net, "equal", threshold * mean_snr[worse],
        RadioHardware(1e9 * ones, power * ones, gain * ones),
        jax.random.key(3), jnp.int32(0), jnp.arange(count), ones, ones,
    )  # fmt: skip
    expected = -math.expm1(-threshold)
    error = math.sqrt(expected * (1 - expected) / count)
    assert abs(np.mean(~round_conditions.reachable) - expected) <= 5 * error


def test_a_higher_threshold_puts_more_clients_in_outage():
    in_outage = [np.asarray(~drawn(outage=x).reachable) for x in (1e-9, 3.0, 30.0, 300.0, 1e9)]
    assert not in_outage[0].any() and in_outage[-1].all()
    assert all(np.all(high >= low) for low, high in zip(in_outage, in_outage[1:], strict=False))


# Networks and hardware


@pytest.mark.parametrize(
    ("name", "up_hz", "down_hz", "noise", "device", "server"),
    [
        ("macro_cell", 10e6, 10e6, 3.98e-21, (0.2, 0.2), 40.0),
        ("wideband", 100e6, 200e6, 3.98e-21, (0.1, 2.0), 2.0),
        ("small_cell", 50e6, 50e6, 3.98e-21, (0.1, 0.2), 0.3),
    ],
)
def test_presets_in_watts_and_hertz(name, up_hz, down_hz, noise, device, server):
    config = plain(network=name, clients=5)
    network, hardware = network_of(config), hardware_of(config)
    assert network == NETWORKS[name]
    assert (network.up_hz, network.down_hz) == (up_hz, down_hz)
    assert math.isclose(network.noise, noise, rel_tol=1e-3)
    assert math.isclose(from_dbm(network.server_power_dbm), server, rel_tol=3e-3)
    watts = from_dbm(hardware.power_dbm)
    np.testing.assert_allclose([watts.min(), watts.max()], device, rtol=3e-3)
    low, high = network.device_flops
    assert hardware.flops.min() == low and hardware.flops.max() == high
    assert 1e8 <= low < high <= 1e10 and network.server_flops == 1e13


def test_a_run_has_the_network_of_its_config():
    radio = build(plain(network="wideband")).spec.radio
    assert radio.network == WIDEBAND and not radio.can_fail
    assert all(x.shape == (4,) for x in jax.tree.leaves(radio.deployment.hardware))
    assert np.all(radio.flop_counts.forward >= 0) and radio.flop_counts.server > 0


@pytest.mark.parametrize("name", PRESETS)
def test_gains_of_clients(name):
    network = NETWORKS[name]
    hardware = deployed(network, 1000)
    low, high = network.gain or (path_gain(network.radius), path_gain(NEAREST))
    gain = np.asarray(hardware.gain, np.float64)
    assert np.all((gain >= low * (1 - 1e-5)) & (gain <= high * (1 + 1e-5)))
    if network.gain:  # uniform between the two
        assert abs(gain.mean() - (low + high) / 2) <= 5 * (high - low) / math.sqrt(12 * 1000)
    assert_close(hardware.power, from_dbm(np.linspace(*network.device_power_dbm, 1000)))
    assert_equal(hardware.flops, np.float32(np.linspace(1e9, 1e10, 1000)))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(hardware))
    assert_equal(deployed(network, 1000), hardware)
    assert differs(deployed(network, 1000, seed=1).gain, hardware.gain)


def test_shadowing_multiplies_gains():
    unshadowed = deployed(MACRO_CELL, 4000)
    shadowed = deployed(MACRO_CELL._replace(shadowing_db=8.0), 4000)
    db = 10 * np.log10(np.asarray(shadowed.gain / unshadowed.gain, np.float64))
    assert abs(db.mean()) <= 5 * 8 / math.sqrt(4000)
    assert abs(db.std() / 8 - 1) <= 5 / math.sqrt(2 * 4000)
