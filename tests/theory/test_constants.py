"""Estimated constants against problems whose constants are known exactly."""

from collections import namedtuple
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, assert_equal
from jax import Array
from jax.flatten_util import ravel_pytree

from jfedsl.keys import fold
from jfedsl.theory.constants import Draw, Estimates, Group, estimate
from jfedsl.theory.estimates import Estimate

# Weights are vectors of 20, folded into layers; one layer has none, like a pooling layer.
SHAPES = ({"a": (2, 3), "b": (3,)}, {}, {"a": (4,)}, {"a": (7,)})
tree = ravel_pytree(tuple({k: np.zeros(s) for k, s in x.items()} for x in SHAPES))[1]
LAYER = np.repeat([0, 2, 3], [9, 4, 7])  # of each weight
LAYERS, CUT, SIZE, CLIENT_SIDE = 4, 3, 20, LAYER < 3
BATCH = 3  # examples, of regressions
ROOTS = {"beta_drift", "beta_pruning"}  # estimated as squares
RATIOS = {"phi", "chi", "q"}  # unbiased only with many pairs
DRAWLESS = {"weight", "rho", "coverage"}
KINDS = [(masks, weighted) for masks in ("none", "alike", "differ") for weighted in (False, True)]
every_kind = pytest.mark.parametrize("number", range(len(KINDS)))

# Participants, every field with a row for each of them. Compression adds `bias` and noise `extra`;
# `garbage` replaces gradients of pruned weights; `data` are the parameters of losses.
Member = namedtuple("Member", "share weight kept bias extra q garbage data")
# Losses: `data(rng, clients)`, `gradients(data, points[P, D], key)` on one mini-batch, and the
# expectation and the variances of such a gradient, `moments(data, point)`.
Model = namedtuple("Model", "data gradients moments")


def standard(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform draws of variance 1, which compile faster than normal ones."""
    return jax.random.uniform(key, shape, minval=-np.sqrt(3.0), maxval=np.sqrt(3.0))


def quadratic_data(rng: np.random.Generator, clients: int) -> tuple[Any, ...]:
    """(w - c)^T H (w - c) / 2; batches scale H by 1 + sway or 1 - sway, and add noise."""
    half = rng.normal(size=(clients, SIZE, SIZE)) / 4
    centre, sway = rng.normal(size=(clients, SIZE)), rng.uniform(0.1, 0.5, clients)
    noise = np.tile(np.array([0.3, 0, 0.6, 0.9])[LAYER], (clients, 1))
    return half + half.swapaxes(1, 2), centre, sway, noise


def quadratic_gradients(data: Any, points: Array, key: Array) -> Array:
    hessian, centre, sway, noise = data
    drawn = standard(key, (SIZE + 1,))
    scale = 1 + sway * jnp.sign(drawn[-1])
    return scale * ((points - centre[None]) @ hessian) + (noise * drawn[:-1])[None]


def quadratic_moments(data: Any, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hessian, centre, sway, noise = data
    mean = hessian @ (point - centre)
    return mean, (sway * mean) ** 2 + noise**2


def regression_gradients(data: Any, points: Array, key: Array) -> Array:
    """Gradients of logistic regression: four classes, four features."""
    rows = jax.random.randint(key, (BATCH,), 0, len(data[0]))
    images, labels = (x[rows] for x in data)

    def loss(point: Array) -> Array:
        logits = images @ point[:16].reshape(4, 4) + point[None, 16:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.vmap(jax.grad(loss))(points)


def regression_moments(data: Any, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the gradients of examples; a mean over a batch has 1 / BATCH of their variance."""
    images, labels = data
    odds = np.exp(images @ point[:16].reshape(4, 4) + point[16:])
    slopes = odds / odds.sum(axis=1, keepdims=True) - np.eye(4)[labels]
    kernels = np.einsum("mi,mj->mij", images, slopes).reshape(-1, 16)
    gradients = np.concatenate([kernels, slopes], 1)
    return gradients.mean(axis=0), gradients.var(axis=0) / BATCH


QUADRATIC = Model(quadratic_data, quadratic_gradients, quadratic_moments)
REGRESSION = Model(
    lambda rng, clients: (rng.normal(size=(clients, 10, 4)), rng.integers(0, 4, (clients, 10))),
    regression_gradients, regression_moments,
)  # fmt: skip


def problem(model: Model, number: int) -> tuple[Member, np.ndarray]:
    """Participants and v, in float32."""
    rng, (masks, weighted), clients = np.random.default_rng(number), KINDS[number], 4
    share = rng.uniform(0.2, 1, clients) if weighted else np.ones(clients)
    mean, kept = rng.normal(size=SIZE), np.ones((clients, SIZE), bool)
    if masks != "none":
        kept[:, CLIENT_SIDE] = rng.random((clients, sum(CLIENT_SIDE))) < 0.6
        kept = kept[[0] * clients] if masks == "alike" else kept
        kept[:, [0, 10]] = False  # kept by nobody
    weight = mean + rng.normal(size=(clients, SIZE)) * CLIENT_SIDE
    bias = rng.normal(size=(clients, SIZE)) / 2
    extra = np.tile(np.array([0.4, 0, 0.2, 0])[LAYER], (clients, 1))
    q, garbage = rng.uniform(0.1, 2, clients), np.full(clients, np.nan)
    fields = (share / share.sum(), weight, kept, bias, extra, q, garbage, model.data(rng, clients))
    return jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), (Member(*fields), mean))


def quiet(number: int) -> tuple[Member, np.ndarray]:
    """Quadratics without any noise."""
    member, mean = problem(QUADRATIC, number)
    data = (*member.data[:2], *(0 * x for x in member.data[2:]))
    return member._replace(extra=0 * member.extra, q=0 * member.q, data=data), mean


@partial(jax.jit, static_argnames=("model", "pairs", "order"))
def estimates(
    model: Model, member: Member, mean: Array, seed: Any = 0, pairs: int = 400, order: Any = None
) -> Estimates:
    """Estimates from participants in groups of the rows in `order`, by default in one group."""

    def draw(member: Member, key: Array) -> Draw:
        points = [mean, *(jnp.where(member.kept, member.weight, x) for x in (mean, 0.0))]
        at_mean, at_client, pruned = model.gradients(member.data, jnp.stack(points), fold(key, 0))
        noise, errors = standard(fold(key, 1), (2, SIZE))
        compressed = pruned + member.bias + member.extra * noise
        # E||Q(x) - x||^2 = q ||x||^2 for every x; errors of server layers must not count.
        quantized = compressed + jnp.sqrt(member.q) * errors * compressed
        gradients = (at_client, pruned, compressed, quantized)
        masked = (jnp.where(member.kept, x, member.garbage) for x in gradients)
        return Draw(*map(tree, (at_mean, *masked)))

    def group(rows: Any) -> Group:
        members = jax.tree.map(lambda x: x[jnp.array(rows)], member)
        weight = lambda m: tree(jnp.where(m.kept, m.weight, 1e3))  # noqa: E731
        return Group(members, members.share, draw, lambda m: tree(m.kept), weight)

    groups = [group(rows) for rows in order or [range(4)]]
    return estimate(groups, tree(mean), CUT, 4, jax.random.key(seed), pairs)


def exact(model: Model, member: Member, mean: np.ndarray) -> dict[str, Any]:
    """The constants as convergence.md defines them, in float64."""
    mean, share, weight = map(np.float64, (mean, member.share, member.weight))
    bias, kept, held = np.float64(member.bias), member.kept, member.kept.any(axis=0)

    def moments(points: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = zip(zip(*member.data, strict=True), points, strict=True)
        return tuple(map(np.stack, zip(*(model.moments(*row) for row in rows), strict=True)))

    def of_keepers(x: np.ndarray) -> np.ndarray:
        pairs = zip(kept.T, x.T, strict=True)
        return np.array([np.average(x[m], weights=share[m]) if any(m) else 0 for m, x in pairs])

    def per_layer(x: np.ndarray) -> np.ndarray:
        x = share @ np.where(kept, x, 0)
        return np.array([x[LAYER == j].sum() for j in range(LAYERS)])

    square = lambda x: float(np.sum(x**2))  # noqa: E731
    at_mean, _ = moments(np.tile(mean, (len(share), 1)))
    at_client, _ = moments(np.where(kept, weight, mean))
    pruned, variance = moments(np.where(kept, weight, 0))
    second = (variance := variance + np.float64(member.extra) ** 2) + (pruned + bias) ** 2
    total, gradient = per_layer(second)[:CUT].sum(), share @ at_mean
    apart = sum(p * square((mean - w)[m]) for p, w, m in zip(share, weight, kept, strict=True))
    lacking = sum(p * square(mean[~m]) for p, m in zip(share, kept, strict=True))
    truth = {
        "beta_drift": np.sqrt(square(of_keepers(at_mean - at_client)) / (apart or np.nan)),
        "beta_pruning": np.sqrt(square(of_keepers(at_client - pruned)) / (lacking or np.nan)),
        "variance": per_layer(variance),
        "moment": per_layer(second),
        "expected": per_layer((pruned + bias) ** 2),
        "weight": np.array([square(mean[LAYER == j]) for j in range(LAYERS)]),
        "rho": lacking / square(mean[CLIENT_SIDE]),
        "phi": square(gradient[~held]) / total,
        "chi": square((gradient - of_keepers(at_mean))[held]) / total,
        "q": per_layer(member.q[:, None] * second)[:CUT].sum() / total,
        "eps_d": square(of_keepers(bias)),
        "coverage": min(share @ kept[:, i] for i in np.flatnonzero(held)),
    }
    if np.ptp(share) == 0:  # S^2 is of equal weights
        truth["dissimilarity"] = square(at_mean - at_mean.mean(axis=0)) / (len(share) - 1)
    return truth


def judged(name: str, estimated: Estimate, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the truth and standard errors, of the squares where roots are reported."""
    value, error = (np.asarray(x, np.float64) for x in estimated)
    if name in ROOTS:
        return value**2 - truth**2, (value + error) ** 2 - value**2
    return value - truth, error


def assert_agree(estimated: Estimates, truth: dict[str, Any]) -> None:
    """Equal within five standard errors and float32 rounding; NaN where the truth is NaN."""
    for name, exact_value in truth.items():
        distance, error = judged(name, getattr(estimated, name), exact_value)
        allowed = 5 * error + 5e-5 * np.abs(exact_value) + 1e-5
        np.testing.assert_array_equal(np.isnan(distance), np.isnan(exact_value), name)
        is_close = np.abs(distance) <= allowed
        assert np.all(np.isnan(exact_value) | is_close), (name, distance, error)


@every_kind
@pytest.mark.parametrize("model", [QUADRATIC, REGRESSION], ids=["quadratics", "regression"])
def test_noisy_estimates_agree_within_standard_errors(model: Model, number: int) -> None:
    arguments = problem(model, number)
    estimated, truth = estimates(model, *arguments), exact(model, *arguments)
    assert_agree(estimated, truth)
    # The errors are small enough for a meaningful test.
    for name in truth.keys() - DRAWLESS:
        value, error = getattr(estimated, name)
        assert not np.any(error > 0.2 * np.abs(value) + 3e-3), (name, value, error)


@every_kind
def test_without_noise_estimates_are_exact_and_curvature_bounds_the_secants(number: int) -> None:
    member, mean = quiet(number)
    estimated = estimates(QUADRATIC, member, mean)
    assert_agree(estimated, exact(QUADRATIC, member, mean))
    assert not any(np.any(x.error > 1e-4) for x in estimated)
    # convergence.md: beta_d and beta_p are at most sqrt(kappa) times the smoothness of every f_n.
    steepest = np.max(np.linalg.norm(member.data[0], ord=2, axis=(1, 2)))
    for root in (estimated.beta_drift, estimated.beta_pruning):
        assert not root.value > steepest / np.sqrt(estimated.coverage.value) * (1 + 1e-5)


def test_standard_errors_are_right_and_squares_unbiased() -> None:
    member, mean = problem(QUADRATIC, 4)
    runs, truth = 500, exact(QUADRATIC, member, mean)
    estimated = jax.vmap(partial(estimates, QUADRATIC, member, mean, pairs=32))(jnp.arange(runs))
    for name in truth.keys() - DRAWLESS:
        distance, error = judged(name, getattr(estimated, name), truth[name])
        has_error = error[0] > 0  # not a layer without weights
        distance, error = distance[:, has_error], error[:, has_error]
        spread = distance.std(axis=0, ddof=1)
        if name not in RATIOS:
            assert np.all(np.abs(distance.mean(axis=0)) <= 5 * spread / np.sqrt(runs)), name
        ratio = np.sqrt(np.mean(error**2, axis=0)) / spread
        assert np.all((0.85 <= ratio) & (ratio <= 1.15)), (name, ratio)
        covered = np.mean(np.abs(distance) <= 2 * error, axis=0)
        assert np.all((0.88 <= covered) & (covered <= 0.99)), (name, covered)


def test_estimates_do_not_depend_on_groups_and_their_order() -> None:
    orders = (None, ((3,), (2, 0, 1)))
    single, grouped = (estimates(QUADRATIC, *quiet(5), order=order) for order in orders)
    assert_close(grouped, single, rtol=1e-4, atol=1e-4)


@every_kind
def test_gradients_of_pruned_weights_have_no_effect(number: int) -> None:
    member, mean = problem(QUADRATIC, number)
    changed = member._replace(garbage=np.full(4, 1e4, np.float32))
    assert_equal(estimates(QUADRATIC, changed, mean), estimates(QUADRATIC, member, mean))


def test_drift_that_cancels_in_the_mean_is_none() -> None:
    (noisy, mean), (quiet_member, _) = problem(QUADRATIC, 0), quiet(0)
    # Around v, and with one Hessian, the changes of the gradients sum to 0.
    weight = quiet_member.weight - quiet_member.weight.mean(axis=0) + mean
    hessians = quiet_member.data[0][[0] * 4]
    noisy, cancelling = (
        m._replace(weight=weight, data=(hessians, *m.data[1:])) for m in (noisy, quiet_member)
    )
    drift, none = (
        estimates(QUADRATIC, m, mean).beta_drift.value for m in (quiet_member, cancelling)
    )
    assert none < 1e-3 * drift
    # With noise, which depends on the order, a mean square may be below 0 and has no root.
    turned = [jax.tree.map(lambda x, i=i: np.roll(x, i, axis=0), noisy) for i in range(4)]
    roots = [estimates(QUADRATIC, m, mean).beta_drift for m in turned]
    assert min(x.value for x in roots) == 0 < min(x.error for x in roots)


def test_nothing_pruned_and_clients_at_the_mean() -> None:
    member, mean = problem(QUADRATIC, 0)
    estimated = estimates(QUADRATIC, member._replace(weight=np.tile(mean, (4, 1))), mean)
    assert estimated.rho.value == estimated.phi.value == estimated.chi.value == 0
    assert estimated.coverage.value == 1
    assert np.isnan(estimated.beta_drift.value) and np.isnan(estimated.beta_pruning.value)
    assert all(np.isfinite(x.value).all() for x in estimated[2:])


@partial(jax.jit, static_argnums=1)
def noiseless(gradients: Array, clients: int) -> Estimates:
    """Estimates from participants whose gradient is their row, without noise, at all weights."""
    draw = lambda row, key: Draw(*[(row,)] * 5)  # noqa: E731
    kept, weight = lambda row: (row == row,), lambda row: (row,)
    group = Group(gradients, jnp.full(len(gradients), 1 / len(gradients)), draw, kept, weight)
    return estimate([group], (gradients[0] + 1,), 1, clients, jax.random.key(0), 2)


def test_dissimilarity_of_drawn_clients_is_on_average_that_of_all() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    pairs = combinations(range(4), 2)
    drawn = [noiseless(rows[[*pair]], 4).dissimilarity.value for pair in pairs]
    np.testing.assert_allclose(np.mean(drawn), rows.var(axis=0, ddof=1).sum(), rtol=1e-5)


@pytest.mark.parametrize("clients", [1, 5])
def test_one_participant_does_not_tell_the_dissimilarity(clients: int) -> None:
    estimated = noiseless(jnp.ones((1, 5)), clients)._asdict()
    spread, pruning = estimated.pop("dissimilarity").value, estimated.pop("beta_pruning").value
    assert spread == 0 if clients == 1 else np.isnan(spread)
    assert np.isnan(pruning) and all(np.isfinite(x.value).all() for x in estimated.values())
