"""Rates of a round, who can be reached in it, and where devices are.

Draws are fixed by their seeds; frequencies have to lie within five of their standard errors.
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
    Devices,
    FlopCounts,
    Radio,
    conditions,
    place,
)

CLIENTS = 12
EVERYBODY = tuple(range(CLIENTS))
PRESETS = [name for name, network in NETWORKS.items() if network is not None]

_rng = np.random.default_rng(0)
FORWARD = jnp.asarray(_rng.uniform(0.001, 0.1, CLIENTS), jnp.float32)
BITS = jnp.asarray(10 ** _rng.uniform(4, 6, CLIENTS), jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _drawn(
    network: Network, allocation: str, outage: float | None, devices: Devices, key: Array,
    ids: Array, forward: Array, bits: Array,
) -> Conditions:  # fmt: skip
    empty = jnp.zeros((1, 1))
    work = FlopCounts(empty, empty, 1.0)
    radio = Radio(network, Deployment(devices, empty), work, allocation, False, outage, None, None)
    return conditions(radio, key, ids, forward, 2 * forward, bits)


def drawn(
    network: Network = MACRO_CELL,
    ids: tuple[int, ...] = EVERYBODY,
    seed: int = 0,
    allocation: str = "equal",
    outage: float | None = None,
) -> Conditions:
    """The conditions of these clients in one round."""
    who = jnp.array(ids)
    return _drawn(
        network, allocation, outage, devices_of(network), jax.random.key(seed), who, FORWARD[who],
        BITS[who],
    )  # fmt: skip


def devices_of(network: Network, count: int = CLIENTS, seed: int = 0) -> Devices:
    power = np.linspace(*network.device_power_dbm, count)
    return place(jax.random.key(seed), network, np.linspace(1e9, 1e10, count), power)


def finish(made: Conditions) -> np.ndarray:
    """When everybody's activations have come."""
    return np.asarray(made.forward + BITS / made.up_rate)


@pytest.mark.parametrize("name", PRESETS)
def test_equal_shares_agree_with_float64(name):
    network = NETWORKS[name]._replace(fading="none")
    ids = (7, 2, 5)
    devices = jax.tree.map(lambda x: np.asarray(x, np.float64)[list(ids)], devices_of(network))
    made = drawn(network, ids)
    up, down = network.up_hz / 3, network.down_hz / 3
    strength = devices.power * devices.gain / network.noise
    assert_close(made.up_rate, up * np.log2(1 + strength / up), rtol=1e-5)
    power = 10 ** (network.server_power_dbm / 10 - 3) / 3
    snr = power * devices.gain / (network.noise * down)
    assert_close(made.down_rate, down * np.log2(1 + snr), rtol=1e-5)
    assert_equal(made.forward, FORWARD[np.array(ids)])
    assert_equal(made.backward, 2 * FORWARD[np.array(ids)])
    assert made.reachable.all()


@pytest.mark.parametrize("allocation", ["equal", "minmax"])
def test_a_round_repeats_and_the_next_differs(allocation):
    made, again = (drawn(allocation=allocation) for _ in range(2))
    assert_equal(made, again)
    for seed in (1, 2):
        other = drawn(seed=seed, allocation=allocation)
        assert np.all(other.up_rate != made.up_rate) and differs(other.down_rate, made.down_rate)


def test_fading_of_a_client_does_not_depend_on_the_others():
    whole = drawn()
    for ids in [(3, 8, 1), (0, 8, 3, 11, 10), tuple(reversed(EVERYBODY))]:
        made = drawn(ids=ids)
        # The downlink's power goes with the band: bits a second and hertz are its fading.
        assert_close(len(ids) * made.down_rate, CLIENTS * whole.down_rate[np.array(ids)])
    assert_equal(drawn(ids=(3, 8, 1)).up_rate[1:], drawn(ids=(5, 8, 1)).up_rate[1:])


def test_both_directions_fade_alike_and_clients_on_their_own():
    alike = MACRO_CELL._replace(radius=None, gain=(1e-10, 1e-10))
    flat = drawn(alike._replace(fading="none"))
    made = drawn(alike)
    assert len(np.unique(made.down_rate)) == CLIENTS
    assert_equal(made.up_rate > flat.up_rate, made.down_rate > flat.down_rate)
    assert_equal(np.argsort(made.up_rate), np.argsort(made.down_rate))


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
def test_minmax_lets_everybody_finish_at_once(name):
    network = NETWORKS[name]
    for seed in range(4):
        even, own = (drawn(network, seed=seed, allocation=a) for a in ("equal", "minmax"))
        ends = finish(own)
        assert ends.max() <= finish(even).max() * (1 + 1e-6)
        np.testing.assert_allclose(ends, ends.max(), rtol=1e-4)
        # What a client gets of the downlink is its share of the band.
        shares = own.down_rate / (CLIENTS * even.down_rate)
        assert np.all(shares > 0)
        assert math.isclose(shares.sum(), 1, rel_tol=1e-5)


def test_minmax_shares_the_band_among_who_can_be_reached():
    outage = 30.0
    even, own = (drawn(allocation=a, outage=outage) for a in ("equal", "minmax"))
    assert_equal(own.reachable, even.reachable)
    there = np.asarray(even.reachable)
    assert 0 < there.sum() < CLIENTS
    shares = np.asarray(own.down_rate / (CLIENTS * even.down_rate))
    assert math.isclose(shares[there].sum(), 1, rel_tol=1e-5)
    assert_close(shares[~there], np.full((~there).sum(), 1 / CLIENTS))
    ends = finish(own)[there]
    np.testing.assert_allclose(ends, ends.max(), rtol=1e-4)
    assert np.all(np.isfinite(drawn(allocation="minmax", outage=1e9).up_rate)), "nobody is"


@pytest.mark.parametrize("threshold", [0.05, 1.0])
@pytest.mark.parametrize(("power", "worse"), [(0.2, "down"), (1e-6, "up")])
def test_outage_of_rayleigh_is_that_of_the_worse_direction(threshold, power, worse):
    count, gain, net = 20_000, 1e-9, MACRO_CELL
    mean = {
        "up": power * gain / (net.noise * net.up_hz / count),
        "down": from_dbm(net.server_power_dbm) * gain / (net.noise * net.down_hz),
    }
    assert min(mean, key=mean.__getitem__) == worse
    one = jnp.ones(count)
    made = _drawn(
        net, "equal", threshold * mean[worse], Devices(1e9 * one, power * one, gain * one),
        jax.random.key(3), jnp.arange(count), one, one,
    )  # fmt: skip
    expected = -math.expm1(-threshold)
    error = math.sqrt(expected * (1 - expected) / count)
    assert abs(np.mean(~made.reachable) - expected) <= 5 * error


def test_who_is_out_is_who_is_below_the_threshold():
    away = [np.asarray(~drawn(outage=x).reachable) for x in (1e-9, 3.0, 30.0, 300.0, 1e9)]
    assert not away[0].any() and away[-1].all()
    assert all(np.all(b >= a) for a, b in zip(away, away[1:], strict=False))


# Networks and devices


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


def test_a_run_is_in_the_network_it_asks_for():
    radio = build(plain(network="wideband")).spec.radio
    assert radio.network == WIDEBAND and not radio.can_fail
    assert all(x.shape == (4,) for x in radio.deployment.devices)
    assert np.all(radio.flop_counts.forward >= 0) and radio.flop_counts.server > 0


@pytest.mark.parametrize("name", PRESETS)
def test_gains_of_devices(name):
    network = NETWORKS[name]
    devices = devices_of(network, 1000)
    low, high = network.gain or (path_gain(network.radius), path_gain(NEAREST))
    gain = np.asarray(devices.gain, np.float64)
    assert np.all((gain >= low * (1 - 1e-5)) & (gain <= high * (1 + 1e-5)))
    if network.gain:  # uniform between the two
        assert abs(gain.mean() - (low + high) / 2) <= 5 * (high - low) / math.sqrt(12 * 1000)
    assert_close(devices.power, from_dbm(np.linspace(*network.device_power_dbm, 1000)))
    assert_equal(devices.flops, np.float32(np.linspace(1e9, 1e10, 1000)))
    assert all(x.dtype == jnp.float32 for x in devices)
    assert_equal(devices_of(network, 1000), devices)
    assert differs(devices_of(network, 1000, seed=1).gain, devices.gain)


def test_shadowing_multiplies_gains():
    clear = devices_of(MACRO_CELL, 4000)
    shadowed = devices_of(MACRO_CELL._replace(shadowing_db=8.0), 4000)
    db = 10 * np.log10(np.asarray(shadowed.gain / clear.gain, np.float64))
    assert abs(db.mean()) <= 5 * 8 / math.sqrt(4000)
    assert abs(db.std() / 8 - 1) <= 5 / math.sqrt(2 * 4000)
