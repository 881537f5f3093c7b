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

from jfedsl.run.assemble import build
from jfedsl.run.assemble.hardware import hardware_of, network_of
from jfedsl.wireless.channel import NEAREST, from_dbm, path_gain
from jfedsl.wireless.network import MACRO_CELL, NETWORKS, WIDEBAND, Network
from jfedsl.wireless.radio import (
    Conditions,
    Deployment,
    FlopCounts,
    Radio,
    RadioHardware,
    conditions,
    deploy,
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
    ids: Array, forward: Array, bits: Array,
) -> Conditions:  # fmt: skip
    empty = jnp.zeros((1, 1))
    flop_counts = FlopCounts(empty, empty, 1.0)
    radio = Radio(
        network, Deployment(hardware, empty), flop_counts, allocation, False, outage, None, None
    )  # fmt: skip
    return conditions(radio, key, ids, forward, 2 * forward, bits)


def drawn(
    network: Network = MACRO_CELL,
    ids: tuple[int, ...] = ALL_CLIENTS,
    seed: int = 0,
    allocation: str = "equal",
    outage: float | None = None,
) -> Conditions:
    """The conditions of the participants `ids` in one round."""
    participants = jnp.array(ids)
    return _drawn(
        network, allocation, outage, deployed(network), jax.random.key(seed), participants,
        FORWARD[participants], BITS[participants],
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
    for seed in (1, 2):
        other = drawn(seed=seed, allocation=allocation)
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
        jax.random.key(3), jnp.arange(count), ones, ones,
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
    assert all(x.shape == (4,) for x in radio.deployment.hardware)
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
    assert all(x.dtype == jnp.float32 for x in hardware)
    assert_equal(deployed(network, 1000), hardware)
    assert differs(deployed(network, 1000, seed=1).gain, hardware.gain)


def test_shadowing_multiplies_gains():
    unshadowed = deployed(MACRO_CELL, 4000)
    shadowed = deployed(MACRO_CELL._replace(shadowing_db=8.0), 4000)
    db = 10 * np.log10(np.asarray(shadowed.gain / unshadowed.gain, np.float64))
    assert abs(db.mean()) <= 5 * 8 / math.sqrt(4000)
    assert abs(db.std() / 8 - 1) <= 5 / math.sqrt(2 * 4000)
