"""Scores: norms of both kinds, and a user's own score through the public config."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import parse, plain, setup

from jfedsl.errors import UserError
from jfedsl.pruning.scores import SCORES, channel_norms, weight_norms

# A score with a state: weights of large running mean square go first.
PLUGIN = """
import jax.numpy as jnp
from jfedsl.pruning.scores import SCORES, Score


def init(weights, norms):
    means = [norm**2 for norm in norms(weights)]
    return means, [-mean for mean in means]


def update(means, period, norms):
    norm_pairs = zip(means, norms(period.after), strict=True)
    means = [0.5 * mean + 0.5 * norm**2 for mean, norm in norm_pairs]
    return means, [-mean for mean in means]


SCORES["largest_first"] = Score(init, update)
"""
RATE = 0.5


@pytest.fixture
def plugin(tmp_path: Path, tables: None) -> str:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return str(path)


def test_the_norm_of_a_weight_is_its_size_and_of_a_channel_that_of_its_vector() -> None:
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32)
    np.testing.assert_array_equal(weight_norms([kernel])[0], np.abs(kernel))
    (norms,) = channel_norms([[kernel, 2 * kernel[0]]])
    expected = np.sqrt((np.asarray(kernel) ** 2).sum((0, 1)) + (4 * kernel[0] ** 2).sum(0))
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


@pytest.mark.parametrize("norms", [weight_norms, channel_norms])
@pytest.mark.parametrize("name", SCORES)
def test_values_have_the_shapes_of_norms(name: str, norms: Any) -> None:
    kernels = [jnp.ones((3, 2, 4)), jnp.ones((4, 5))]
    weights = kernels if norms is weight_norms else [[kernel] for kernel in kernels]
    score, shapes = SCORES[name], [norm.shape for norm in norms(weights)]
    if score.draw is None:
        _, values = score.init(weights, norms)
    else:
        values = score.draw(jax.random.key(0), weights, norms)
    assert [value.shape for value in values] == shapes
    assert {value.dtype for value in values} == {jnp.dtype(jnp.float32)}


def weight_squares(params: Any) -> list[np.ndarray]:
    """Squares of the weights of the first dense layer of mlp, all of them in competition."""
    return [np.asarray(params[1]["Dense_0"]["kernel"], np.float64).reshape(-1) ** 2]


def channel_squares(params: Any) -> list[np.ndarray]:
    """Squared norms of the units of that layer."""
    return [(np.asarray(params[1]["Dense_0"]["kernel"], np.float64) ** 2).sum(0)]


@pytest.mark.parametrize(
    ("kind", "squares"), [("mask", weight_squares), ("channel", channel_squares)]
)
def test_a_users_score_with_a_state_prunes_both_kinds(kind: str, squares: Any, plugin: str) -> None:
    changes: dict[str, Any] = {"prune_kind": kind, "prune_rate": (RATE,), "cut": "dense1"}
    _, state, one_round = setup(plugin=plugin, prune_score="largest_first", **changes)
    means: list[np.ndarray] = squares(state.aggregator.params)
    for _ in range(3):
        state, record = one_round(state)  # the clients hold the masks that they trained with
        assert np.isfinite(np.asarray(record.losses)).all()
        masks = state.clients.masks
        kept = np.asarray(masks[1]["Dense_0"]["kernel"] if kind == "mask" else masks[0])
        kept = kept.reshape(len(kept), -1)
        assert (kept == kept[0]).all(), "clients of one rate share one ranking"
        assert kept[0].sum() == round((1 - RATE) * kept[0].size)
        assert means[0][kept[0]].max() <= means[0][~kept[0]].min() * (1 + 1e-5)
        pairs = zip(means, squares(state.aggregator.params), strict=True)
        means = [0.5 * mean + 0.5 * square for mean, square in pairs]
        for actual, mean in zip(state.aggregator.pruning.score_state, means, strict=True):
            np.testing.assert_allclose(np.ravel(actual), mean, rtol=1e-4, atol=1e-6)


def test_the_flag_takes_a_users_score_and_names_plugins_where_there_is_none(plugin: str) -> None:
    assert parse([f"--plugin={plugin}", "--prune_score=largest_first"]).prune_score in SCORES
    with pytest.raises(UserError, match="--prune_score must be one of .*taylor.*--plugin adds"):
        plain(prune_score="least", prune_kind="mask")
