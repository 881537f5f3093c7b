"""FedProx's term against NumPy, and what it does to a run."""

from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_close, exchange_of, setup

from engine import reference
from jfedsl.engine.client_step import client_step
from jfedsl.engine.proximal import with_proximal_term
from jfedsl.engine.state import weights

MU, RATE = 0.7, 0.05


def moved(state: Any, seed: int = 0) -> Any:
    """The participants at other weights than they received."""
    rng = np.random.default_rng(seed)

    def move(w: Any) -> Any:
        return w + rng.normal(size=w.shape).astype(np.float32)

    return state.clients.replace(params=jax.tree.map(move, state.clients.params))


def test_a_step_of_kept_shared_weights_equals_numpy() -> None:
    e, state, _ = setup(
        proximal=MU, cut="dense2", personal="dense1", clients=2, aggregate_every=2,
        prune_kind="mask", prune_rate=(0.0, 0.5),
    )  # fmt: skip
    clients, x = moved(state), exchange_of(e, state)
    gradient = jax.tree.map(lambda w: 0.1 * w, clients.params)
    after = client_step(x, clients, gradient)
    for n in range(2):
        trees = clients.params, gradient, state.clients.params, clients.masks, after.params
        w, g, received, m, new = (
            jax.tree.map(lambda leaf, n=n: np.float64(leaf[n]), tree) for tree in trees
        )
        personal = jax.tree.map(lambda w, g: w - RATE * g, w[1], g[1])
        assert_close(new[1], personal)
        shared = jax.tree.map(
            lambda w, g, r, m: w - RATE * m * (g + MU * (w - r)), w[2], g[2], received[2], m[2]
        )
        assert_close(new[2], shared)


def test_where_changes_are_sent_down_the_term_is_to_what_arrived() -> None:
    e, state, _ = setup(proximal=MU, clients=2, aggregate_every=2, model_down="uniform(4)")
    arrived = jax.tree.map(lambda w: w + 1.0, state.clients.params)
    clients = moved(state).replace(received=arrived)
    zero = jax.tree.map(np.zeros_like, clients.params)
    term = with_proximal_term(exchange_of(e, state), clients, zero)
    assert_close(term, jax.tree.map(lambda w, r: MU * (w - r), clients.params, arrived))


def test_a_period_is_that_of_a_loop_and_a_large_mu_keeps_clients_together() -> None:
    def distance(mu: float) -> tuple[float, Any]:
        e, state, run = setup(
            proximal=mu, clients=2, aggregate_every=4, partition="shards", client_learning_rate=RATE
        )
        share = np.asarray(weights(e.spec, e.data.partition, state.participants))
        before, _ = run(state)
        state, _ = run(before)
        _, gradients, _ = reference.gradients(e, before, 1, 0, share)
        for n, gradient in enumerate(gradients):
            expected = jax.tree.map(
                lambda w, g, r, n=n: w[n] - RATE * (g + mu * (w[n] - r)),
                before.clients.params, gradient, e.initial.params[: e.spec.cut],
            )  # fmt: skip
            assert_close(jax.tree.map(lambda w, n=n: w[n], state.clients.params), expected)
        pairs = zip(*map(jax.tree.leaves, (state.clients.params, e.initial.params[: e.spec.cut])),
                    strict=True)  # fmt: skip
        return float(np.sqrt(sum(np.sum((w - r[None]) ** 2) for w, r in pairs))), state

    free, held = distance(0.0)[0], distance(10.0)[0]
    assert 0 < held < 0.8 * free


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sfl_v1", "sfl_v2", "fedavg", "local_loss", "sage",
                                       "broadcast", "u_shape"])  # fmt: skip
def test_every_algorithm_that_has_the_term_steps_by_it(algorithm: str) -> None:
    settings: dict[str, Any] = {"algorithm": algorithm, "clients": 2, "aggregate_every": 4}
    e, state, run = setup(**settings)
    _, _, held = setup(proximal=MU, **settings)
    before, _ = run(state)
    first = slice(e.spec.cut)  # fits of heads have no such term
    rows = (after.clients.params[first] for after in (held(before)[0], run(before)[0], before))
    actual, expected, start = rows
    received = before.aggregator.params[first]
    assert_close(
        actual,
        jax.tree.map(lambda x, w, r: x - RATE * MU * (w - r[None]), expected, start, received),
    )
    assert max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (actual, expected)),
                                                     strict=True)) > 1e-5  # fmt: skip
