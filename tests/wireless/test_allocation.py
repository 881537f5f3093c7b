"""Bandwidth shares: as fast as those of two other solvers, with properties of any case."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from jfedsl.wireless.allocation import equal, minmax

compiled = jax.jit(minmax)


class Case(NamedTuple):
    """Clients that share a band, float64 with values of float32.

    Attributes:
      seconds: until each client starts to send, `[K]`, s.
      bits: that each client sends, `[K]`.
      strength: bandwidth at which each client's SNR is 1, `[K]`, Hz.
      bandwidth: of all clients together, Hz.
    """

    seconds: np.ndarray
    bits: np.ndarray
    strength: np.ndarray
    bandwidth: np.ndarray


def case(seconds, bits, strength, bandwidth) -> Case:
    per_client = np.broadcast_arrays(*map(np.atleast_1d, (seconds, bits, strength)))
    return Case(*(np.float64(np.float32(x)) for x in (*per_client, bandwidth)))


def drawn(seed: int, clients: int | None = None, wide: bool = False) -> Case:
    """A case with log-uniform magnitudes: those of cells, or, if `wide`, all supported ones."""
    random = np.random.default_rng(seed)
    clients = clients or int(random.integers(2, 9))

    def log_uniform(low: float, high: float, shape: tuple[int, ...] = (clients,)) -> np.ndarray:
        return np.exp(random.uniform(math.log(low), math.log(high), shape))

    if wide:
        per_client = log_uniform(1e-6, 1e3), log_uniform(1, 1e9), log_uniform(1e3, 1e12)
    else:
        per_client = log_uniform(1e-3, 1), log_uniform(1e5, 1e8), log_uniform(1e4, 1e12)
    return case(*per_client, log_uniform(1e6, 1e8, ()))


def shares(of: Case) -> np.ndarray:
    fractions = np.asarray(compiled(*map(np.float32, of)))
    assert fractions.shape == of.bits.shape and fractions.dtype == np.float32
    return fractions.astype(np.float64)


def finished(of: Case, fractions: np.ndarray) -> np.ndarray:
    """When each client has sent its bits, `[K]`, s."""
    times = of.seconds.copy()
    sends = of.bits > 0
    band = fractions[sends] * of.bandwidth
    times[sends] += of.bits[sends] * math.log(2) / (band * np.log1p(of.strength[sends] / band))
    return times


def slowest(of: Case, fractions: np.ndarray) -> float:
    return finished(of, fractions).max()


def uniform(of: Case) -> np.ndarray:
    return np.full(of.bits.shape, 1 / of.bits.size)


def by_slsqp(of: Case) -> float:
    """The least time of the slowest client by a general solver, s.

    Variables are the logarithms of the shares, and the time.
    """
    clients, scale = of.bits.size, slowest(of, uniform(of))

    def slack(x: np.ndarray) -> np.ndarray:
        return x[-1] - finished(of, np.exp(x[:-1])) / scale

    def slack_slopes(x: np.ndarray) -> np.ndarray:
        snr = of.strength / (np.exp(x[:-1]) * of.bandwidth)
        sending = (finished(of, np.exp(x[:-1])) - of.seconds) / scale
        slopes = sending * (1 - snr / ((1 + snr) * np.log1p(snr)))
        return np.column_stack([np.diag(slopes), np.ones(clients)])

    result = minimize(
        lambda x: x[-1],
        np.append(np.log(uniform(of)), 1.0),
        jac=lambda x: np.append(np.zeros(clients), 1.0),
        method="SLSQP",
        bounds=[(-40, 0)] * clients + [(0, 1)],
        constraints=[
            {"type": "ineq", "fun": slack, "jac": slack_slopes},
            {
                "type": "ineq",
                "fun": lambda x: 1 - np.exp(x[:-1]).sum(),
                "jac": lambda x: np.append(-np.exp(x[:-1]), 0.0),
            },
        ],
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    fractions = np.exp(result.x[:-1])
    return slowest(of, fractions / fractions.sum())


def by_nested_roots(of: Case) -> float:
    """The least time of the slowest client by nested root finding in float64, s."""

    def fraction(n: int, deadline: float) -> float:
        client = Case(*(x[n : n + 1] for x in of[:3]), of.bandwidth)

        def lateness(log_fraction: float) -> float:
            return slowest(client, np.exp([log_fraction])) - deadline

        # If the whole band is not enough, return more than the whole band.
        return 2.0 if lateness(0.0) > 0 else math.exp(brentq(lateness, -60, 0, xtol=1e-12))

    def excess_band(log_excess: float) -> float:
        deadline = limit + math.exp(log_excess)
        return sum(fraction(n, deadline) for n in range(of.bits.size)) - 1

    limit = (of.seconds + of.bits * math.log(2) / of.strength).max()
    most = 2 * slowest(of, uniform(of))
    return limit + math.exp(brentq(excess_band, math.log(limit) - 32, math.log(most), xtol=1e-10))


@pytest.mark.parametrize("seed", range(100))
def test_minmax_is_as_fast_as_a_general_solver(seed):
    of = drawn(seed)
    assert slowest(of, shares(of)) == pytest.approx(by_slsqp(of), rel=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_minmax_is_exact_over_all_magnitudes(seed):
    of = drawn(seed, wide=True)
    assert slowest(of, shares(of)) == pytest.approx(by_nested_roots(of), rel=1e-6)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("clients", [1, 2, 7, 300, 10_000])
def test_all_clients_finish_together_on_the_whole_band(clients, wide):
    of = drawn(clients, clients, wide)
    fractions = shares(of)
    times = finished(of, fractions)
    assert fractions.min() >= 0
    assert fractions.sum() == pytest.approx(1, abs=2e-6)
    assert times.min() == pytest.approx(times.max(), rel=3e-6)
    assert times.max() <= slowest(of, uniform(of)) * (1 + 1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(1.0, 10.0))
def test_more_bandwidth_is_never_slower(seed, clients, factor):
    of = drawn(seed, clients, wide=True)
    wider = case(*of[:3], of.bandwidth * factor)
    assert slowest(wider, shares(wider)) <= slowest(of, shares(of)) * (1 + 2e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_never_slower_than_equal_shares(seed, clients):
    of = drawn(seed, clients, wide=True)
    assert slowest(of, shares(of)) <= slowest(of, uniform(of)) * (1 + 1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_units_do_not_matter(seed, factor):
    of = drawn(seed, 4)
    in_other_seconds = case(of.seconds * factor, of.bits * factor, *of[2:])
    in_other_hertz = case(of.seconds, *(x * factor for x in of[1:]))
    for other in (in_other_seconds, in_other_hertz):
        np.testing.assert_allclose(shares(other), shares(of), rtol=1e-4)


def test_order_does_not_matter():
    of = drawn(3, 7)
    order = np.random.default_rng(0).permutation(7)
    shuffled = Case(of.seconds[order], of.bits[order], of.strength[order], of.bandwidth)
    np.testing.assert_allclose(shares(shuffled), shares(of)[order], rtol=1e-5)


@pytest.mark.parametrize("strength", [1e3, 1e7, 1e12])
def test_equal_clients_get_equal_shares(strength):
    equal_shares = shares(case(np.full(6, 0.5), 1e6, strength, 1e7))
    np.testing.assert_allclose(equal_shares, 1 / 6, rtol=1e-6)
    mixed = shares(
        case([0.5, 0.1, 0.5, 0.5], [1e6, 1e5, 1e6, 1e6], [strength, 1e8] + 2 * [strength], 1e7)
    )
    assert mixed[0] == mixed[2] == mixed[3] != mixed[1]


def test_equal():
    fractions = equal(8)
    assert fractions.dtype == jnp.float32
    np.testing.assert_array_equal(fractions, np.full(8, 0.125, np.float32))


def test_a_single_client_gets_the_whole_band():
    for seed in range(10):
        assert shares(drawn(seed, 1, wide=True)) == 1


def test_clients_without_bits_get_no_band():
    of = case([0.5, 50.0, 0.2, 0.0], [1e6, 0.0, 3e6, 0.0], [1e8, 1e3, 1e9, 1e12], 1e7)
    fractions = shares(of)
    assert fractions[1] == fractions[3] == 0
    senders = case(of.seconds[[0, 2]], of.bits[[0, 2]], of.strength[[0, 2]], 1e7)
    np.testing.assert_allclose(fractions[[0, 2]], shares(senders), rtol=1e-6)


@pytest.mark.parametrize("seconds", [0.0, [1.0, 2.0, 3.0]])
def test_shares_are_equal_if_no_client_has_bits(seconds):
    fractions = shares(case(seconds, 0.0, [1e3, 1e8, 1e12], 1e7))
    np.testing.assert_allclose(fractions, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("strength", [1e3, 1e4, 1e5])
def test_a_client_that_bandwidth_hardly_helps(strength):
    # Its least time is some seconds; the others need little of the band.
    of = case([0.0, 0.1, 0.1], [10 * strength, 1e6, 1e6], [strength, 1e9, 1e9], 1e8)
    fractions = shares(of)
    times = finished(of, fractions)
    assert fractions[0] > 0.95
    assert times.max() == pytest.approx(by_nested_roots(of), rel=1e-6)
    assert times.min() == pytest.approx(times.max(), rel=3e-6)


def test_a_slowest_client_whose_time_hardly_depends_on_the_band():
    # The band changes its time by far less than float32 resolves.
    of = case([1e3, 1.0, 1.0], [1.0, 1e6, 1e6], [1e12, 1e6, 1e9], 1e8)
    times = finished(of, shares(of))
    assert times.max() == pytest.approx(1e3, rel=1e-7)
    assert times.min() == pytest.approx(times.max(), rel=1e-6)


def test_cases_may_be_vmapped():
    cases = [drawn(seed, 5) for seed in range(6)]
    stacked = [np.stack(x).astype(np.float32) for x in zip(*cases, strict=True)]
    fractions = jax.jit(jax.vmap(minmax))(*stacked)
    np.testing.assert_allclose(fractions, [shares(of) for of in cases], rtol=1e-5)
    bands = np.asarray([1e6, 1e7, 1e8], np.float32)
    of_first_case = [np.float32(x) for x in cases[0][:3]]
    fractions = jax.vmap(minmax, in_axes=(None, None, None, 0))(*of_first_case, bands)
    expected = [shares(case(*cases[0][:3], band)) for band in bands]
    np.testing.assert_allclose(fractions, expected, rtol=1e-5)


def test_bandwidth_may_be_a_python_number():
    of = drawn(0, 3)
    fractions = minmax(*(jnp.asarray(x, jnp.float32) for x in of[:3]), float(of.bandwidth))
    np.testing.assert_allclose(fractions, shares(of), rtol=1e-5)
