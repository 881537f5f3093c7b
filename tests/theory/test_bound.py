"""The formula of the bound: against the theorem of convergence.md, in limits, and its uses."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.theory.bound import (
    Constants,
    Effects,
    Setting,
    Terms,
    best_step_size,
    bound,
    steps_needed,
)
from jfedsl.theory.verdict import Verdict, verdict
from theory.quadratics import Given, with_field

SEEDS = st.integers(0, 2**32 - 1)


@jax.jit
def compiled(*given: Any) -> tuple[Terms, jax.Array]:
    terms = bound(*given)
    return terms, terms.total


def random_inputs(seed: int = 0, layers: int = 4) -> Given:
    """Random constants, effects and a setting with everything switched on."""
    rng = np.random.default_rng(seed)
    participants = int(rng.integers(2, 8))

    def scale(*shape: int) -> Any:
        return 10 ** rng.uniform(-1, 1, shape)

    variance, expected = scale(layers), scale(layers)
    constants = Constants(
        *scale(5),
        variance=variance,
        moment=(variance + expected) * rng.uniform(0.8, 1.2, layers),
        expected=expected,
        weight=scale(layers),
        dissimilarity=scale(),
    )
    effects = Effects(*scale(5), coverage=rng.uniform(0.2, 0.9))
    setting = Setting(
        cut=int(rng.integers(1, layers + 1)),
        step_size=0.1 * scale() / constants.beta,
        steps=int(rng.integers(50, 1000)),
        period=int(rng.integers(2, 12)),
        clients=participants + int(rng.integers(1, 4)),
        participants=participants,
        largest_weight=1 / participants,
        edge_period=int(rng.integers(1, 3)),
        edge_weight=rng.uniform(0.1, 0.9),
        server_drifts=rng.uniform(0.5, 0.9),
    )
    return Given(constants, effects, setting)


def reference(inputs: Given) -> Terms:
    """The theorem of convergence.md, in float64."""
    c, e, s = inputs

    def split(x: np.ndarray) -> tuple[float, float]:
        return np.sum(x[: s.cut]), np.sum(x[s.cut :])

    (noise, noise_s), (moment, moment_s) = split(c.variance), split(c.moment)
    (expected, expected_s), (weight, _) = split(c.expected), split(c.weight)
    gamma, period, kappa = s.step_size, s.period, 1 / e.coverage
    a1, a2 = (np.mean(np.arange(period) ** power) for power in (1, 2))
    own = np.mean(np.arange(min(s.edge_period, period)))
    before = s.edge_weight * (a1 - own)  # averaged over the edge
    walked = (own + before) * (noise + e.q * moment)
    walked += s.server_drifts * s.edge_weight * a1 * noise_s
    walk = np.sqrt(walked) + np.sqrt(a2 * (expected + s.server_drifts * expected_s))
    direct = a2 * ((1 + e.q) * moment + s.server_drifts * moment_s)
    absent = 1 - s.participants / s.clients
    scale = c.beta * gamma * s.largest_weight
    path = a2 * (kappa * (1 + e.q) * moment + moment_s)
    drawn = np.sqrt(absent * c.dissimilarity / s.participants)
    return Terms(
        initial_gap=2 * c.gap / (gamma * s.steps),
        gradient_noise=scale * (kappa**2 * noise + noise_s),
        quantization_noise=scale * kappa**2 * e.q * moment,
        masked_update=e.phi * moment,
        drift=c.beta_drift**2 * gamma**2 * min(direct, walk**2),
        pruning=c.beta_pruning**2 * e.rho * weight,
        disparity=e.chi * moment,
        dropout_bias=e.eps_d,
        sampling=(drawn + 2 * absent * c.beta_clients * gamma * np.sqrt(path)) ** 2,
    )


def reference_total(terms: Terms) -> Any:
    biases = terms.drift, terms.pruning, terms.disparity, terms.dropout_bias, terms.sampling
    return sum(terms[:4]) + sum(np.sqrt(x) for x in biases) ** 2


@pytest.mark.parametrize("layers", [1, 6])
def test_equals_the_theorem(layers):
    @given(SEEDS)
    def check(seed):
        inputs = random_inputs(seed, layers)
        (terms, total), expected = compiled(*inputs), reference(inputs)
        np.testing.assert_allclose(terms, expected, rtol=2e-5)
        np.testing.assert_allclose(total, reference_total(expected), rtol=2e-5)

    check()


NOISY = {"gradient_noise", "quantization_noise"}
LOCAL = {"quantization_noise", "masked_update", "drift", "disparity", "sampling"}
# The terms that each field of the bound raises as it grows, and those that it lowers.
MONOTONE: dict[str, tuple[set[str], set[str]]] = {
    "gap": ({"initial_gap"}, set()),
    "beta": (NOISY, set()),
    "beta_drift": ({"drift"}, set()),
    "beta_pruning": ({"pruning"}, set()),
    "beta_clients": ({"sampling"}, set()),
    "variance": ({"gradient_noise", "drift"}, set()),
    "moment": (LOCAL, set()),
    "expected": ({"drift"}, set()),
    "weight": ({"pruning"}, set()),
    "dissimilarity": ({"sampling"}, set()),
    "rho": ({"pruning"}, set()),
    "phi": ({"masked_update"}, set()),
    "chi": ({"disparity"}, set()),
    "q": ({"quantization_noise", "drift", "sampling"}, set()),
    "eps_d": ({"dropout_bias"}, set()),
    "coverage": (set(), {*NOISY, "sampling"}),
    "cut": ({*LOCAL, "gradient_noise", "pruning"}, set()),
    "step_size": ({*NOISY, "drift", "sampling"}, {"initial_gap"}),
    "steps": (set(), {"initial_gap"}),
    "period": ({"drift", "sampling"}, set()),
    "clients": ({"sampling"}, set()),
    "participants": (set(), {"sampling"}),
    "largest_weight": (NOISY, set()),
    "edge_period": ({"drift"}, set()),
    "edge_weight": ({"drift"}, set()),
    "server_drifts": ({"drift"}, set()),
}


def test_every_field_is_tried():
    assert set(MONOTONE) == {*Constants._fields, *Effects._fields, *Setting._fields}


@pytest.mark.parametrize("name", MONOTONE)
def test_terms_are_monotone(name):
    raised, lowered = MONOTONE[name]
    whole = name in ("cut", "period", "clients", "participants", "steps", "edge_period")
    changed = set()
    for seed in range(12):
        inputs = with_field(random_inputs(seed), "cut", lambda x: min(x, 3))
        larger = with_field(inputs, name, lambda x: x + 1 if whole else x * 1.1)
        (before, low), (after, high) = compiled(*inputs), compiled(*larger)
        for term, x, y in zip(Terms._fields, before, after, strict=True):
            assert y >= x * (1 - 1e-6) or term in lowered, term
            assert y <= x * (1 + 1e-6) or term in raised, term
            changed |= {term} if abs(y - x) > 1e-6 * x else set()
        assert lowered or high >= low * (1 - 1e-6)
        assert raised or high <= low * (1 + 1e-6)
    assert changed == raised | lowered


# Values that switch terms off, and the terms.
LIMITS = {
    "gap": (0, {"initial_gap"}),
    "period": (1, {"drift"}),
    "rho": (0, {"pruning"}),
    "q": (0, {"quantization_noise"}),
    "phi": (0, {"masked_update"}),
    "chi": (0, {"disparity"}),
    "eps_d": (0, {"dropout_bias"}),
    "participants": (None, {"sampling"}),
    "cut": (0, {"quantization_noise", "masked_update", "drift", "pruning", "disparity"}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_exact(name):
    value, zero_terms = LIMITS[name]
    for seed in range(3):
        inputs = with_field(random_inputs(seed), "server_drifts", lambda _: 0.0)
        value = inputs.setting.clients if name == "participants" else value
        terms, _ = compiled(*with_field(inputs, name, lambda _, value=value: value))
        assert {term for term, x in terms._asdict().items() if x == 0} == zero_terms


def test_all_off_is_the_known_bound():
    for seed in range(10):
        c, _, s = random_inputs(seed)
        s = s._replace(
            participants=s.clients, largest_weight=1 / s.clients, edge_weight=1, server_drifts=0
        )
        moment, noise, pull = (np.sum(x[: s.cut]) for x in (c.moment, c.variance, c.expected))
        squares = (s.period - 1) * (2 * s.period - 1) / 6
        walk = (np.sqrt((s.period - 1) / 2 * noise) + np.sqrt(squares * pull)) ** 2
        expected = 2 * c.gap / (s.step_size * s.steps)
        expected += c.beta * s.step_size / s.clients * np.sum(c.variance)
        expected += (c.beta_drift * s.step_size) ** 2 * min(squares * moment, walk)
        terms, total = compiled(c, Effects(), s)
        np.testing.assert_allclose(total, expected, rtol=2e-5)
        assert np.count_nonzero(terms) == 3  # gap, noise and drift


@pytest.mark.parametrize("name", Setting._fields)
def test_fields_of_any_type(name):
    values = [3, 1, 2]
    inputs = with_field(
        with_field(random_inputs(), "clients", lambda _: 5), "participants", lambda _: 1
    )
    single = [bound(*with_field(inputs, name, lambda _, x=x: x)) for x in values]
    for dtype in ("int32", "int64", "float32", "float64"):
        terms = bound(*with_field(inputs, name, lambda _, d=dtype: np.asarray(values, d)))
        assert np.all(np.isfinite(terms))
        np.testing.assert_allclose(terms, np.transpose(single), rtol=1e-6)
        np.testing.assert_allclose(terms.total, [x.total for x in single], rtol=1e-6)


@pytest.mark.parametrize("cuts, periods", [((3,), None), ((3, 1), None), ((3, 1), (4,))])
def test_arrays_of_settings(cuts, periods):
    inputs = random_inputs()
    cut = np.array([1, 2, 4]).reshape(cuts)
    period = inputs.setting.period if periods is None else np.array([1, 2, 5, 9])
    arrays = with_field(with_field(inputs, "cut", lambda _: cut), "period", lambda _: period)
    with jax.numpy_rank_promotion("raise" if periods is None else "allow"):
        terms, total = compiled(*arrays)
    cut, period = np.broadcast_arrays(cut, period)
    assert {x.shape for x in (*terms, total)} == {cut.shape}
    for index in np.ndindex(cut.shape):
        setting = inputs.setting._replace(cut=int(cut[index]), period=int(period[index]))
        single_terms, single_total = compiled(*inputs._replace(setting=setting))
        np.testing.assert_allclose([x[index] for x in terms], single_terms, rtol=1e-6)
        np.testing.assert_allclose(total[index], single_total, rtol=1e-6)


@given(SEEDS)
def test_shares_add_up(seed):
    terms, total = compiled(*random_inputs(seed))
    assert all(x >= 0 for x in terms.shares)
    np.testing.assert_allclose(sum(terms.shares), total, rtol=1e-5)
    assert terms.shares[:4] == terms[:4]


def test_steps_needed():
    needed = jax.jit(steps_needed)
    for seed in range(8):
        inputs = random_inputs(seed)
        floor = float(compiled(*with_field(inputs, "gap", lambda _: 0.0))[1])
        steps_of = needed(*inputs, np.array([0.5, 0.99, 1.01, 2.0]) * floor)
        assert np.array_equal(np.isinf(steps_of), [True, True, False, False])
        for steps, target in zip(steps_of[2:], (1.01 * floor, 2 * floor), strict=True):
            inputs = with_field(inputs, "steps", lambda _, n=steps: n)
            ratios = compiled(*inputs)[1] / target, needed(*inputs, target) / steps
            np.testing.assert_allclose(ratios, 1, rtol=1e-4)


@pytest.mark.parametrize("gap", [1e-9, 1.0, 1e2, 1e6, 1e12])
def test_best_step_size(gap):
    best = jax.jit(best_step_size)
    for seed in range(5):
        inputs = with_field(random_inputs(seed), "gap", lambda _: gap)
        most = 1 / inputs.constants.beta
        step = float(best(*inputs))
        assert 0 < step <= most * (1 + 1e-6)
        steps = np.append(most * np.geomspace(1e-9, 1, 4000), step)
        totals = reference_total(reference(with_field(inputs, "step_size", lambda _, x=steps: x)))
        assert totals[-1] <= min(totals) * (1 + 1e-5)
        if gap == 1e12:
            np.testing.assert_allclose(step, most, rtol=1e-6)
        assert best(*with_field(inputs, "step_size", lambda _: 123.0)) == step


def test_best_step_size_of_arrays():
    inputs = with_field(random_inputs(3), "gap", lambda _: 1.0)
    periods = [1, 2, 9]
    single = [best_step_size(*with_field(inputs, "period", lambda _, x=x: x)) for x in periods]
    arrays = with_field(inputs, "period", lambda _: np.array(periods))
    np.testing.assert_allclose(best_step_size(*arrays), single, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(best_step_size)(*arrays), single, rtol=1e-6)
    assert len(set(map(float, single))) > 1


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "total, average, largest, steepness, expected",
    [
        (1.0, 0.5, 2.0, 0.9, "holds"),
        (1.0, 1.0, 1.0, 1.0, "holds"),
        (3.0, 0.5, 2.0, 0.9, "vacuous"),
        (INF, 0.5, 2.0, 0.9, "vacuous"),
        (0.4, 0.5, 2.0, 0.9, "assumption broken"),
        (1.0, 0.5, 2.0, 1.1, "assumption broken"),
        (3.0, 0.5, 2.0, 1.1, "assumption broken"),
        (NAN, 0.5, 2.0, 0.9, "assumption broken"),
        (1.0, 0.5, 2.0, NAN, "assumption broken"),
        (1.0, NAN, 2.0, 0.9, "diverged"),
        (1.0, INF, 2.0, 0.9, "diverged"),
        (1.0, 0.5, INF, 0.9, "diverged"),
        (1.0, 0.5, NAN, 0.9, "diverged"),
        (NAN, NAN, NAN, NAN, "diverged"),
    ],
)
def test_verdict(total, average, largest, steepness, expected):
    assert verdict(total, average, largest, steepness) is Verdict(expected)
