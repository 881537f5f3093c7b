"""The theorem on quadratic problems: it holds, and no constant in it can be smaller."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from helpers import slow
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from jfedsl.theory.bound import bound
from theory.quadratics import (
    SIZE,
    Given,
    Problems,
    Process,
    random_problems,
    simulate,
    with_field,
)

EXAMPLES, BATCH = 6, 16

# What is switched on in each kind of problem.
KINDS = {
    "plain": set(),
    "noise": {"noise"},
    "drift": {"period"},
    "noisy drift": {"period", "noise"},
    "pruning and masked update": {"period", "same masks"},
    "nested masks": {"period", "nested masks"},
    "random masks": {"period", "random masks"},
    "qsgd": {"period", "qsgd"},
    "weights": {"period", "noise", "weights"},
    "partial": {"period", "partial"},
    "bias": {"period", "bias"},
    "everything": {"period", "noise", "nested masks", "qsgd", "weights", "bias"},
    "edges": {"period", "edges"},
    "edges with servers": {"period", "edges", "servers", "noise", "qsgd", "weights", "same masks"},
    "everything, partial": {"period", "noise", "random masks", "qsgd", "partial", "bias"},
}
# Without random noise; the other kinds measure expectations by few runs.
EXACT = {
    "plain",
    "drift",
    "edges",
    "pruning and masked update",
    "nested masks",
    "random masks",
    "bias",
}

bounds = jax.jit(jax.vmap(bound))


def total(inputs: Given) -> np.ndarray:
    return np.asarray(bounds(*inputs).total)


@st.composite
def cases(draw: DrawFn, effects: set[str]) -> tuple[dict[str, Any], Process]:
    """Arguments of `start_problems` and a process, with the given effects."""
    clients = draw(st.integers(2, 5))
    arguments = {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "far": draw(st.sampled_from([1.0, 0.1, 0.01])),
        "clients": clients,
        "unlike": draw(st.sampled_from([1.0, 0.1, 0.0])),
        "spread": draw(st.floats(0.1, 3)),
        "noise": draw(st.floats(0.01, 2)) if "noise" in effects else 0.0,
        "bias": draw(st.floats(0.01, 1)) if "bias" in effects else 0.0,
        "weights": "random" if "weights" in effects else "equal",
    }
    rate, rates = st.floats(0, 0.9), (0.0,)
    if effects & {"same masks", "random masks"}:
        rates = (draw(rate),)
    if "nested masks" in effects:
        rates = tuple(draw(st.lists(rate, min_size=clients, max_size=clients)))
    process = Process(
        cut=draw(st.integers(1, 3)),
        period=draw(st.integers(2, 10)) if "period" in effects else 1,
        steps=draw(st.sampled_from([30, 60, 120, 2])),
        fraction=draw(st.sampled_from([1.0, 0.5, 0.1])),
        participants=draw(st.integers(1, clients - 1)) if "partial" in effects else 0,
        rates=rates,
        random="random masks" in effects,
        levels=float(draw(st.integers(1, 8))) if "qsgd" in effects else math.inf,
        edges=draw(st.integers(2, clients)) if "edges" in effects else 1,
        cloud_every=draw(st.integers(1, 4)) if "edges" in effects else 1,
        server_at_edges="servers" in effects,
    )
    return arguments, process


def start_problems(seed: int, far: float, **kw: Any) -> Problems:
    """A batch of problems that start at a distance in proportion to `far` from the minimum."""
    problems = random_problems(np.random.default_rng(seed), BATCH, **kw)
    return problems._replace(start=problems.minimum + far * problems.start)


def distance_bounds(inputs: Given) -> tuple[np.ndarray, np.ndarray]:
    """The proof's bounds on squared distances: clients to v, and v to the last aggregation.

    The second is infinite with full participation, which does not need it.
    """
    terms = bounds(*with_field(inputs, "dissimilarity", np.zeros_like))
    constants, setting = inputs.constants, inputs.setting
    absent = 1 - setting.participants / setting.clients
    slope = 2 * absent * constants.beta_clients
    moved = np.where(slope > 0, terms.sampling / np.where(slope > 0, slope, 1) ** 2, np.inf)
    return np.asarray(terms.drift) / constants.beta_drift**2, moved


# Another kind that is quick has all of their effects.
IN_OTHERS = {"edges", "noise", "noisy drift", "qsgd", "nested masks", "weights", "partial"}


@pytest.mark.parametrize("kind", [slow(kind) if kind in IN_OTHERS else kind for kind in KINDS])
def test_never_exceeded(kind):
    checked = 0

    @settings(max_examples=EXAMPLES)
    @given(cases(KINDS[kind]))
    def check(case):
        nonlocal checked
        arguments, process = case
        runs = 16 if kind in EXACT else 64  # means of noisy squares
        run = simulate(start_problems(**arguments), process, arguments["seed"], runs)
        allowed = 1 - (1e-4 if kind in EXACT else 0.03)
        for inputs in (run.worst, run.sharp):
            assert np.all(total(inputs) >= allowed * run.average), total(inputs) / run.average
        apart, moved = distance_bounds(run.worst)
        allowed = 1 - (1e-4 if kind in EXACT else 0.15)  # the square of few steps is noisier
        assert np.all(apart >= allowed * run.apart - 1e-9), (apart, run.apart)
        assert np.all(moved >= allowed * run.moved), moved / run.moved
        assert np.all(run.average > 1e-12)
        checked += len(run.average)

    check()
    assert checked == EXAMPLES * BATCH
    assert checked * len(KINDS) >= 500


def test_plain_bound_is_near():
    problems = random_problems(np.random.default_rng(0), 64, 4, unlike=1.0, spread=1.0)
    run = simulate(problems, Process(steps=50, fraction=0.5), seed=0, runs=1)
    ratio = total(run.worst) / run.average
    assert 1 <= np.min(ratio)
    assert np.median(ratio) < 2.2


def random(clients: int = 4, **kw: float) -> Problems:
    """Problems that start at their minimum, so that only the effect under test moves them."""
    problems = random_problems(np.random.default_rng(3), 8, clients, **kw)
    return problems._replace(start=problems.minimum)


def isotropic(clients: int = 4, **kw: float) -> Problems:
    """Problems that start at their minimum, with twice the identity as every Hessian."""
    problems = random_problems(np.random.default_rng(3), 8, clients, **kw)
    hessians = np.broadcast_to(2 * np.eye(SIZE), problems.hessians.shape)
    problems = problems._replace(hessians=hessians)
    return problems._replace(start=problems.minimum)


def away(problems: Problems, by: float) -> Problems:
    return problems._replace(start=problems.start + by)


# Two weights: the least, which are pruned first, or 0, so that pruning them changes nothing.
FEW = np.arange(SIZE) < 2
LEAST = isotropic()._replace(start=np.where(FEW, 0.0, isotropic().start + 0.1))
ONE_KEEPS = isotropic()
ONE_KEEPS = ONE_KEEPS._replace(
    centers=np.broadcast_to(np.where(FEW, 0.1, 3.0), ONE_KEEPS.centers.shape),
    start=np.broadcast_to(np.where(FEW, 0.1, 3.0), ONE_KEEPS.start.shape),
    noise=np.broadcast_to(0.01 * FEW, ONE_KEEPS.noise.shape),
)
NOISY = isotropic()._replace(noise=np.ones((8, 4, SIZE)))
HEAVY = isotropic()._replace(
    weights=np.broadcast_to([0.4, 0.2, 0.2, 0.2], (8, 4)),
    noise=np.ones((8, 4, SIZE)) * [[1], [0], [0], [0]],
)
NESTED = (0.0, 0.2, 0.4, 0.6)
FULL = Process(fraction=1.0, steps=200)

# Cases in which one term is the whole bound: problems, process, a field of the inputs, and a factor
# by which that field cannot be reduced.
TIGHT = {
    "initial gap": (away(isotropic(spread=1.0), 1.0), FULL, "gap", 0.9),
    "noise": (NOISY, FULL, "variance", 0.85),
    "weights": (HEAVY, FULL, "largest_weight", 0.85),
    "coverage": (ONE_KEEPS, FULL._replace(rates=(0, 1 / 3, 1 / 3, 1 / 3)), "coverage", 1.5),
    "qsgd": (isotropic(spread=1.0), FULL._replace(cut=3, levels=1.0), "q", 0.7),
    "masked update": (LEAST, FULL._replace(rates=(1 / 3,)), "phi", 0.9),
    "drift": (random(unlike=1.0, spread=1.0), FULL._replace(period=2, cut=3), "beta_drift", 0.3),
    "gradients": (random(unlike=1.0, spread=1.0), FULL._replace(period=2, cut=3), "expected", 0.3),
    "pruning": (random(), FULL._replace(cut=3, rates=NESTED), "beta_pruning", 0.3),
    "disparity": (
        isotropic(spread=1.0),
        FULL._replace(period=200, cut=3, rates=NESTED),
        "chi",
        0.9,
    ),
    "bias": (isotropic(bias=1.0), FULL, "eps_d", 0.9),
    "sampling": (isotropic(spread=1.0), FULL._replace(participants=2), "dissimilarity", 0.9),
}


@pytest.mark.parametrize("case", TIGHT)
def test_bound_is_reached_and_no_constant_can_be_smaller(case):
    problems, process, name, factor = TIGHT[case]
    run = simulate(problems, process, seed=1, runs=32)
    smaller = with_field(run.sharp, name, lambda x: x * factor)
    assert np.all(total(run.sharp) >= 0.96 * run.average), total(run.sharp) / run.average
    assert np.all(total(smaller) < 0.96 * run.average), total(smaller) / run.average


SLOW = Process(fraction=1e-3, period=6, steps=60, cut=3)

NOISY_EDGES = isotropic(32)._replace(noise=np.ones((8, 32, SIZE)))
EDGES = SLOW._replace(period=1, cloud_every=6, edges=8)

# Cases in which clients, or v, move as far as the proof allows, as gradients stay constant.
FAR = {
    "gradients": (isotropic(spread=1.0), SLOW, "expected", 0.9),
    "noise": (isotropic(16)._replace(noise=np.ones((8, 16, SIZE))), SLOW, "variance", 0.85),
    "qsgd": (isotropic(16, spread=1.0), SLOW._replace(period=2, levels=1.0), "q", 0.7),
    # One exchange in an edge's period: all noise but that of the last step is a mean over the edge.
    "edge": (NOISY_EDGES, EDGES, "edge_weight", 0.8),
    "servers": (NOISY_EDGES, EDGES._replace(server_at_edges=True, cut=1), "server_drifts", 0.6),
    "all alike": (away(isotropic(), 1.0), SLOW._replace(participants=2), "moment", 0.9),
}


@pytest.mark.parametrize("case", FAR)
def test_distances_are_reached(case):
    problems, process, name, factor = FAR[case]
    run = simulate(problems, process, seed=2)
    which, measured = (1, run.moved) if case == "all alike" else (0, run.apart)
    inputs = with_field(run.worst, "q", lambda _: run.sharp.effects.q)
    most = distance_bounds(inputs)[which]
    smaller = distance_bounds(with_field(inputs, name, lambda x: x * factor))[which]
    assert np.all(most >= 0.96 * measured), most / measured
    assert np.all(smaller < 0.96 * measured), smaller / measured
