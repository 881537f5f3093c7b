"""Rankings: a score's state over periods, and clients that rank by their own draw."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jfedsl.pruning import ranking
from jfedsl.pruning.ranking import Units
from jfedsl.pruning.ranks import ranks
from jfedsl.pruning.scores import Norms, Period, Score, Weights, drawn, memoryless, weight_norms

UNITS = Units(list, list, weight_norms, lambda values: ranks(values, "global"))
FIRST, SECOND = [jnp.array([3.0, -1.0, 2.0])], [jnp.array([1.0, -3.0, 2.0])]
KEPT, LOST = [jnp.array([True, False, True])], [jnp.zeros(3, bool)]


def _init(weights: Weights, norms: Norms) -> tuple[Array, list[Array]]:
    return jnp.zeros(()), norms(weights)


def _update(count: Array, period: Period, norms: Norms) -> tuple[Array, list[Array]]:
    return count + period.rate, norms(period.after)


COUNTING = Score(_init, _update)


def updated(score: Score, kept: list[Array], rate: float) -> Any:
    state = ranking.init(score, UNITS, FIRST)
    return ranking.update(score, UNITS, state, FIRST, SECOND, kept, jnp.float32(rate))


def test_a_period_updates_the_state_and_the_ranks() -> None:
    state = updated(COUNTING, KEPT, 0.5)
    assert state.score_state == 0.5
    np.testing.assert_array_equal(state.ranks[0], [0, 2, 1])


@pytest.mark.parametrize(("kept", "rate"), [(LOST, 0.5), (KEPT, 0.0)])
def test_a_period_in_which_nothing_is_learnt_leaves_a_state_and_its_ranks(
    kept: list[Array], rate: float
) -> None:
    state = updated(COUNTING, kept, rate)
    assert state.score_state == 0.0
    np.testing.assert_array_equal(state.ranks[0], [2, 0, 1])


def test_a_score_without_a_state_follows_the_weights_alone() -> None:
    score = memoryless(lambda weights, norms: [-norm for norm in norms(weights)])
    state = updated(score, LOST, 0.0)
    assert state.score_state is None
    np.testing.assert_array_equal(state.ranks[0], [2, 0, 1])


def test_a_draw_sees_the_key_and_the_weights_of_now() -> None:
    score = drawn(lambda key, weights, norms: [n + jax.random.uniform(key) for n in norms(weights)])
    state = updated(score, KEPT, 0.5)
    assert state.ranks is None and state.score_state is None
    ranked = ranking.of_client(score, UNITS, state, SECOND, jax.random.key(0))
    np.testing.assert_array_equal(ranked[0], [0, 2, 1])
