"""The means of averaging: step counters that fit the moments they come with."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, plain
from jax import Array

from engine.test_outage import gain_without, rounds_by_gain
from jfedsl.algorithms.sfl_v1 import server_of
from jfedsl.engine.averaging import merge
from jfedsl.engine.state import Aggregator, State
from jfedsl.run.assemble import build

pytestmark = pytest.mark.usefixtures("standard_promotion")

BETAS = (0.9, 0.999)  # of both moments
ADAM: dict[str, Any] = {
    "optimizer": "adam", "client_optimizer_state": "average", "clients": 4,
    "client_learning_rate": 0.001,
}  # fmt: skip
WHOLE = 4 * (3 * (64 * 256 + 256) + 1)  # bytes of weights, two moments and the counter


@pytest.fixture(scope="module")
def setting() -> tuple[Any, State]:
    """The compiled mean of clients' states, and a state."""
    e = build(plain(**ADAM))
    return jax.jit(partial(merge, e.spec)), e.init()


def merged(setting: tuple[Any, State], start: int, steps: list[int], weights: Any) -> Any:
    """Adam's state of an aggregator at `start` after clients took so many steps of gradient 1."""
    merge_states, state = setting
    before, counters = state.aggregator.optimizer[0], state.clients.optimizer[0]
    counts = jnp.int32(start) + jnp.array(steps, jnp.int32)

    def moments(like: Any, beta: float) -> Any:
        sizes = 1 - beta ** np.asarray(counts, np.float64)

        def fill(x: Array) -> Array:
            rows = jnp.asarray(sizes, jnp.float32).reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.broadcast_to(rows, x.shape)

        return jax.tree.map(fill, like)

    mu, nu = (moments(x, b) for x, b in zip((counters.mu, counters.nu), BETAS, strict=True))
    adam = counters._replace(count=counts, mu=mu, nu=nu)
    clients = state.clients.replace(optimizer=(adam, *state.clients.optimizer[1:]))
    old = before._replace(count=jnp.int32(start))
    aggregator = state.aggregator.replace(optimizer=(old, *state.aggregator.optimizer[1:]))
    share = jnp.array(weights, jnp.float32)
    after: Aggregator = merge_states(aggregator, clients, share)
    return after.optimizer[0]


@pytest.mark.parametrize("start", [0, 7, 2**24 + 1])  # float32 cannot hold the last one
@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ((0.25, 0.25, 0.25, 0.25), 4),  # of 1, 2, 4 and 10
        ((0.5, 0.25, 0.25, 0.0), 2),
        ((0.125, 0.125, 0.125, 0.625), 7),
        ((1.0, 0.0, 0.0, 0.0), 1),
        ((0.0, 0.0, 0.0, 0.0), 0),
    ],
)
def test_the_counter_is_the_nearest_to_the_mean_of_those_who_count(
    setting: tuple[Any, State], start: int, weights: tuple[float, ...], wanted: int
) -> None:
    steps = [1, 2, 4, 10]
    count = merged(setting, start, steps, weights).count
    assert count.dtype == jnp.int32 and int(count) == start + wanted
    exact = np.dot(weights, steps)
    assert abs(wanted - exact) <= 0.5


def test_the_counter_corrects_the_bias_of_averaged_moments(
    setting: tuple[Any, State],
) -> None:
    steps, weights = [4, 6, 8, 10], (0.25,) * 4
    after = merged(setting, 0, steps, weights)
    for moment, beta in zip((after.mu, after.nu), BETAS, strict=True):
        mean = sum(a * (1 - beta**t) for a, t in zip(weights, steps, strict=True))
        assert_close(moment, jax.tree.map(lambda x, mean=mean: np.full(x.shape, mean), moment))
        # The gradients were 1, so a moment without bias is 1.
        corrected = mean / (1 - beta ** int(after.count))
        with_greatest = mean / (1 - beta ** max(steps))
        assert abs(corrected - 1) < 0.03 < 0.2 < 1 - with_greatest


def test_counters_of_server_copies_are_averaged_too() -> None:
    e = build(plain(**ADAM, algorithm="sfl_v1"))
    state = e.init()
    adam = state.server.optimizer[0]._replace(count=jnp.array([1, 2, 4, 10], jnp.int32))
    server = state.server.replace(optimizer=(adam, *state.server.optimizer[1:]))
    merged = server_of(e.spec, e.data.partition, state.replace(server=server))
    assert merged.optimizer[0].count.dtype == jnp.int32 and int(merged.optimizer[0].count) == 4


def test_counters_after_outages() -> None:
    """Periods of three rounds of two steps; who is away takes none."""
    e = build(plain(**ADAM, local_steps=2, aggregate_every=3, network="macro_cell",
                    outage_snr_db=-200.0))  # fmt: skip
    run, state = rounds_by_gain(e), e.init()

    def period(state: State, *away: list[int]) -> tuple[State, list[Any]]:
        records = []
        for one in away:
            state, record = run(gain_without(e, one), state)
            records.append(record)
        return state, records

    def counter(state: State) -> int:
        return int(state.aggregator.optimizer[0].count)

    state, records = period(state, [3], [3], [])
    assert state.clients.optimizer[0].count.tolist() == [5] * 4
    assert counter(state) == 5  # of 6, 6, 6, 2
    assert (records[0].sent["model_down"] == WHOLE).all()  # to one of them in vain
    assert records[2].sent["model_down"].tolist() == [0, 0, 0, WHOLE]
    assert (records[2].sent["model_up"] == WHOLE).all()

    # Only the first client is there; in the end it is not, and its counter is not in the mean.
    state, _ = period(state, [1, 2, 3], [1, 2, 3], [0])
    assert counter(state) == 7
    assert state.clients.optimizer[0].count.tolist() == [9, 7, 7, 7]

    # Nobody can send: moments and counter stay as they are.
    after, _ = period(state, [], [], [0, 1, 2, 3])
    assert_equal(after.aggregator.optimizer, state.aggregator.optimizer)
    assert after.clients.optimizer[0].count.tolist() == [11] * 4
