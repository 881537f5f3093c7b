"""The process of convergence.md on quadratic problems, where every constant is known exactly.

Client n has the loss f_n(w) = 1/2 (w - c_n)^T H_n (w - c_n). Many problems, and many runs of each,
are simulated at once in float64. Arrays have the axes [problems, clients, runs, SIZE], the same for
all clients without the second. Expectations given the state are exact; over states they are means
of the runs.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from jfedsl.theory.bound import Constants, Effects, Setting

SIZE, LAYERS = 12, 4
_LAYER_SIZE = SIZE // LAYERS


class Problems(NamedTuple):
    """A batch of problems.

    Attributes:
      hessians: H_n `[problems, clients, SIZE, SIZE]`.
      centers: c_n `[problems, clients, SIZE]`.
      noise: standard deviation of the gradient `[problems, clients, SIZE]`.
      bias: b_n, of the gradient `[problems, clients, SIZE]`.
      weights: of the clients `[problems, clients]`; partial participation takes them as equal.
      start: v^0 `[problems, SIZE]`.
    """

    hessians: ndarray
    centers: ndarray
    noise: ndarray
    bias: ndarray
    weights: ndarray
    start: ndarray

    @property
    def hessian(self) -> ndarray:
        """The Hessian of f, `[problems, SIZE, SIZE]`."""
        return np.einsum("pn,pnij->pij", self.weights, self.hessians)

    @property
    def minimum(self) -> ndarray:
        """The minimum of f, `[problems, SIZE]`."""
        pull = np.einsum("pn,pnij,pnj->pi", self.weights, self.hessians, self.centers)
        return np.linalg.solve(self.hessian, pull[..., None])[..., 0]

    def loss(self, w: ndarray) -> ndarray:
        """F at `w[problems, ..., SIZE]`, less its minimum."""
        away = w - self.minimum[:, *[None] * (w.ndim - 2)]
        return np.einsum("p...i,pij,p...j->p...", away, self.hessian, away) / 2


class Process(NamedTuple):
    """The training process.

    Attributes:
      cut: number of client-side layers.
      period: exchanges between aggregations; with edges between those of an edge.
      steps: number of exchanges.
      fraction: gamma * beta.
      participants: clients drawn for a period; 0: all.
      rates: pruned fraction of the clients' weights; one for all, or one for each client.
      random: whether each client prunes random weights; else the least weights of v.
      levels: of QSGD; infinite is no quantization.
      edges: servers that average their own clients; masks are then alike, and all take part.
      cloud_every: periods between averages over all edges.
      server_at_edges: whether each edge has a copy of the server's layers.
    """

    cut: int = 2
    period: int = 1
    steps: int = 50
    fraction: float = 0.5
    participants: int = 0
    rates: tuple[float, ...] = (0.0,)
    random: bool = False
    levels: float = math.inf
    edges: int = 1
    cloud_every: int = 1
    server_at_edges: bool = False


class Given(NamedTuple):
    """Arguments of the bound, with an axis of problems in front."""

    constants: Constants
    effects: Effects
    setting: Setting


class Result(NamedTuple):
    """Measurements of a simulation, for each problem.

    Attributes:
      average: (1/T) sum_t E||grad f(v^t)||^2.
      apart: (1/T) sum_t E sum_n p_n ||v^t - w^_n^t||^2.
      moved: (1/T) sum_t E||v^t - v||^2 with v that of the last aggregation.
      worst: constants from the smoothness of every f_n and the quantizer's worst-case factor.
      sharp: the least constants that the proof allows.
    """

    average: ndarray
    apart: ndarray
    moved: ndarray
    worst: Given
    sharp: Given


def with_field(given: Given, name: str, change: Callable[[Any], Any]) -> Given:
    """`given` with `change` applied to the field `name` of one of its parts."""
    assert any(name in part._fields for part in given), name
    return Given(
        *(x._replace(**{name: change(getattr(x, name))}) if name in x._fields else x for x in given)
    )


def random_problems(
    rng: Generator,
    count: int,
    clients: int,
    unlike: float = 0.0,
    spread: float = 0.0,
    noise: float = 0.0,
    bias: float = 0.0,
    weights: str = "equal",
) -> Problems:
    """Random problems.

    Args:
      rng: of the draws.
      count: number of problems.
      clients: number of clients of each.
      unlike: scale by which Hessians differ between clients.
      spread: scale by which minima differ between clients.
      noise: scale of the standard deviation of gradients.
      bias: scale of the bias of gradients.
      weights: "equal" or "random".
    """
    assert weights in ("equal", "random")
    shape = (count, clients, SIZE)

    def curvatures(*axes: int) -> ndarray:
        bases = np.linalg.qr(rng.normal(size=(*axes, SIZE, SIZE)))[0]
        values = 10 ** rng.uniform(-1.5, 0, size=(*axes, 1, SIZE))
        return (bases * values) @ bases.swapaxes(-1, -2)

    shares = np.ones(shape[:2]) if weights == "equal" else rng.uniform(0.1, 1, size=shape[:2])
    return Problems(
        hessians=curvatures(count, 1) + unlike * curvatures(count, clients),
        centers=rng.normal(size=(count, 1, SIZE)) + spread * rng.normal(size=shape),
        noise=noise * rng.uniform(0.5, 1.5, size=shape),
        bias=bias * rng.normal(size=shape),
        weights=shares / shares.sum(axis=1, keepdims=True),
        start=rng.normal(size=(count, SIZE)) * 2,
    )


def simulate(problems: Problems, process: Process, seed: int, runs: int = 16) -> Result:
    """Runs the process on each problem `runs` times and measures all constants on the way."""
    rng = np.random.default_rng(seed)
    count, clients = problems.weights.shape
    partial = 0 < process.participants < clients
    participants = process.participants if partial else clients
    if partial:
        problems = problems._replace(weights=np.full((count, clients), 1 / clients))
    beta = np.linalg.eigvalsh(problems.hessian)[:, -1]
    gamma = process.fraction / beta
    local = np.arange(SIZE) < _LAYER_SIZE * process.cut
    noise, bias = problems.noise[:, :, None], problems.bias[:, :, None]
    weights = problems.weights[:, :, None, None]

    edge = np.arange(clients) * process.edges // clients
    in_edge = np.where(edge[:, None] == edge, problems.weights[:, None], 0.0)
    in_edge /= in_edge.sum(axis=-1, keepdims=True)  # of each client in its edge's mean
    cloud = process.period * process.cloud_every

    def at_edges(w: ndarray) -> ndarray:
        return np.einsum("pnm,pmrs->pnrs", in_edge, w)

    def gradients(w: ndarray) -> ndarray:
        return (w - problems.centers[:, :, None]) @ problems.hessians

    path: dict[str, list[ndarray]] = defaultdict(list)  # each [problems] or [problems, LAYERS]
    v = np.repeat(problems.start[:, None], runs, axis=1)
    w, first = np.repeat(v[:, None], clients, axis=1), problems.loss(problems.start)
    coverage = np.ones(count)
    for t in range(process.steps):
        if t % process.period == 0 and t % cloud:
            w = at_edges(w)
        if t % cloud == 0:
            last, w = v, np.repeat(v[:, None], clients, axis=1)
            p = _drawn(rng, count, clients, runs, participants) if partial else weights
            masks = _masks(rng, process, v, clients)
            mass = np.sum(p * masks, axis=1)
            held = mass > 0
            shares = p * masks / np.where(held, mass, 1.0)[:, None]
            coverage = np.minimum(coverage, np.where(held, mass, 1.0).min(axis=(1, 2)))
        filled, z = np.where(masks, w, v[:, None]), masks * w  # w^_n and z_n
        at_v, at_filled, at_z = (gradients(x) for x in (v[:, None], filled, z))
        gradient = _mean(weights, at_v)
        expected = masks * (at_z + bias)
        now = {
            "gradient": _square(gradient),
            "moved": _square(v - last),
            "apart": np.sum(_mean(p, (v[:, None] - filled) ** 2), axis=-1),
            "pruned": np.sum(_mean(p, (filled - z) ** 2), axis=-1),
            "drift": _square(_mean(shares, at_v - at_filled)),
            "pruning": _square(_mean(shares, at_filled - at_z)),
            "bias": _square(_mean(shares, bias)),
            "unheld": _square(np.where(held, 0.0, gradient)),
            "disparity": _square(np.where(held, _mean(p, at_v) - _mean(shares, at_v), 0.0)),
            "expected": _layers(_mean(p, expected**2)),
            "variance": _layers(_mean(p, masks * noise**2)),
            "weight": _layers(v**2),
        }
        if t % cloud == 0:
            now["unlike"] = np.sum((at_v - gradient[:, None]) ** 2, axis=(1, 3))
        for name, x in now.items():
            path[name].append(np.mean(x, axis=1))

        g = expected + masks * noise * rng.normal(size=w.shape)
        sent, errors = _quantized(rng, g * local, process.levels)
        path["errors"].append(np.mean(_mean(p, errors).sum(axis=-1), axis=1))
        path["sent"].append(np.mean(_mean(p, (g * local) ** 2).sum(axis=-1), axis=1))
        of_server = at_edges(g) if process.server_at_edges else _mean(shares, g)[:, None]
        step = np.where(local, sent, of_server)
        w = w - gamma[:, None, None, None] * step
        v = np.where(held, _mean(shares, w), last)

    series = {name: np.stack(x) for name, x in path.items()}
    most = {name: x.max(axis=0) for name, x in series.items()}
    most["moment"] = np.max(series["expected"] + series["variance"], axis=0)
    moment = most["moment"][:, : process.cut].sum(axis=1)
    client_beta = np.linalg.eigvalsh(problems.hessians).max(axis=(1, 2))
    size = _LAYER_SIZE * process.cut
    factor = min(size / process.levels**2, math.sqrt(size) / process.levels)
    constants = Constants(
        gap=first,
        beta=beta,
        beta_drift=client_beta / np.sqrt(coverage),
        beta_pruning=client_beta / np.sqrt(coverage),
        beta_clients=client_beta,
        **{name: most[name] for name in ("variance", "moment", "expected", "weight")},
        dissimilarity=most["unlike"] / max(clients - 1, 1),
    )
    effects = Effects(
        rho=_ratio(most["pruned"], most["weight"][:, : process.cut].sum(axis=1)),
        phi=_ratio(most["unheld"], moment),
        chi=_ratio(most["disparity"], moment),
        q=np.full(count, factor),
        eps_d=most["bias"],
        coverage=coverage,
    )
    heaviest = 1 / participants if partial else problems.weights.max(axis=1)
    fields = process.cut, gamma, process.steps, cloud, clients, participants, heaviest
    fields += process.period, in_edge.max(axis=(1, 2)), float(process.server_at_edges)
    setting = Setting(*(np.broadcast_to(x, count) for x in fields))
    sharp = constants._replace(
        gap=first - np.mean(problems.loss(v), axis=1),
        beta_drift=np.sqrt(_ratio(series["drift"], series["apart"]).max(axis=0)),
        beta_pruning=np.sqrt(_ratio(series["pruning"], series["pruned"]).max(axis=0)),
    )
    errors = _ratio(series["errors"], series["sent"]).max(axis=0)
    return Result(
        average=series["gradient"].mean(axis=0),
        apart=series["apart"].mean(axis=0),
        moved=series["moved"].mean(axis=0),
        worst=Given(constants, effects, setting),
        sharp=Given(sharp, effects._replace(q=errors), setting),
    )


def _drawn(rng: Generator, count: int, clients: int, runs: int, participants: int) -> ndarray:
    """Equal weights of `participants` clients, drawn without replacement; 0 for the others."""
    ranks = rng.random((count, clients, runs, 1)).argsort(axis=1).argsort(axis=1)
    return (ranks < participants) / participants


def _masks(rng: Generator, process: Process, v: ndarray, clients: int) -> ndarray:
    """Masks of clients: all server-side weights, and at least one client-side weight."""
    size = _LAYER_SIZE * process.cut
    pruned = np.minimum(np.floor(np.asarray(process.rates) * size + 1e-9), size - 1)
    scores = np.repeat(np.abs(v[:, None, :, :size]), clients, axis=1)
    if process.random:
        scores = rng.random(scores.shape)
    kept = scores.argsort(axis=-1).argsort(axis=-1) >= pruned[:, None, None]
    return np.concatenate([kept, np.ones_like(kept, shape=(*kept.shape[:-1], SIZE - size))], -1)


def _quantized(rng: Generator, x: ndarray, levels: float) -> tuple[ndarray, ndarray]:
    """QSGD of the last axis, and the mean squared error of each entry given x."""
    if math.isinf(levels):
        return x, np.zeros_like(x)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    unit = norm / levels
    scaled = np.abs(x) / np.where(unit > 0, unit, 1.0)
    part = scaled - np.floor(scaled)
    up = np.floor(scaled) + (rng.random(x.shape) < part)
    return np.sign(x) * up * unit, part * (1 - part) * unit**2


def _mean(weights: ndarray, x: ndarray) -> ndarray:
    """The weighted sum over clients, axis 1."""
    return np.sum(weights * x, axis=1)


def _square(x: ndarray) -> ndarray:
    return np.sum(x**2, axis=-1)


def _layers(x: ndarray) -> ndarray:
    return np.sum(x.reshape(*x.shape[:-1], LAYERS, _LAYER_SIZE), axis=-1)


def _ratio(top: ndarray, bottom: ndarray) -> ndarray:
    """The ratio; 0 where the denominator is rounding only."""
    real = bottom > 1e-20
    return np.where(real, top / np.where(real, bottom, 1.0), 0.0)
