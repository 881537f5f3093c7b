"""Pruning: each client's masks meet its rate, follow the scores, and change with them only."""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jfedsl.models import layers
from jfedsl.models.blocks import NORMS
from jfedsl.models.cnn import cnn
from jfedsl.pruning.pruner import Pruner, PruningState
from jfedsl.pruning.scores import SCORES
from jfedsl.pruning.weights import SCOPES, keep, prunable, weight_pruner

RATES = (0.3, 0.0, 0.85, 0.3, 0.5)
CLIENTS = len(RATES)
PRUNABLE: Any = ({"bias": False, "kernel": True}, {}, {"kernel": True}, {"kernel": False})
SIZES = {"first": 30, "second": 24}
every_score = pytest.mark.parametrize("score", SCORES)
every_scope = pytest.mark.parametrize("scope", SCOPES)
Masks = Any


def model(seed: int) -> Any:
    """A client-side part: two prunable leaves among others and a layer without parameters."""
    draw = np.random.default_rng(seed).normal
    shapes = ({"bias": (6,), "kernel": (5, 6)}, {}, {"kernel": (2, 3, 4)}, {"kernel": (4, 3)})
    return jax.tree.map(
        lambda shape: jnp.asarray(draw(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple) and isinstance(leaf[0], int),
    )


@cache
def pruner(
    score: str = "magnitude",
    scope: str = "global",
    ramp: int = 0,
    rates: tuple[float, ...] = RATES,
) -> Pruner:
    return weight_pruner((), PRUNABLE, SIZES, rates, SCORES[score], scope, ramp)


@partial(jax.jit, static_argnums=0)
def compiled_masks(
    masks: Callable[..., Masks], state: PruningState, params: Any, seed: Array, round_: Array
) -> Masks:
    clients = jnp.arange(CLIENTS, dtype=jnp.int32)
    over_clients = jax.vmap(masks, (None, None, None, None, 0))
    return over_clients(state, params, jax.random.key(seed), round_, clients)


def masks_of(
    pruner: Pruner, params: Any, round_: int = 0, seed: int = 0, state: PruningState | None = None
) -> Masks:
    """Masks of all clients, `[C, ...]` in every leaf."""
    state = pruner.init(params) if state is None else state
    masks = compiled_masks(pruner.masks, state, params, jnp.uint32(seed), jnp.int32(round_))
    return jax.tree.map(np.asarray, masks)


def pick(tree: Any) -> list[Any]:
    """The prunable leaves."""
    return [tree[0]["kernel"], tree[2]["kernel"]]


def flat(leaves: list[Any]) -> np.ndarray:
    """Leaves `[C, ...]` side by side: `[C, weights]`."""
    return np.concatenate([np.reshape(leaf, (CLIENTS, -1)) for leaf in leaves], axis=1)


def competing(tree: Any, scope: str) -> list[np.ndarray]:
    """Groups of weights ranked together, `[C, weights]` each."""
    leaves = pick(tree)
    return [flat(leaves)] if scope == "global" else [flat([leaf]) for leaf in leaves]


def same_for_all(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.tile(leaf, (CLIENTS,) + (1,) * leaf.ndim), tree)


def zeros_like(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@every_score
@every_scope
@pytest.mark.parametrize("tied", [False, True])
def test_every_client_loses_its_rate_to_one_weight(score: str, scope: str, tied: bool) -> None:
    params = jax.tree.map(jnp.ones_like, model(0)) if tied else model(0)
    for masks in competing(masks_of(pruner(score, scope), params), scope):
        removed = np.sum(~masks, axis=1)
        np.testing.assert_array_equal(removed, np.rint(np.array(RATES) * masks.shape[1]))


@every_scope
def test_the_least_magnitudes_are_removed(scope: str) -> None:
    params = model(1)
    masks = competing(masks_of(pruner(scope=scope), params), scope)
    weights = competing(same_for_all(params), scope)
    for mask, weight in zip(masks, weights, strict=True):
        for kept, size in zip(mask, np.abs(weight), strict=True):
            assert np.max(size[~kept], initial=0) < np.min(size[kept])


def test_global_scope_prunes_the_leaf_of_small_weights_harder() -> None:
    params = model(2)
    params[0]["kernel"] *= 1e-3
    small, large = (np.sum(~m) for m in pick(masks_of(pruner(), params)))
    # Of 54 weights the clients lose 16, 0, 46, 16 and 27; the small leaf has 30 of the 54.
    assert small == 30 + 16 + 16 + 27
    assert large == 46 - 30
    evenly = [np.mean(~m) for m in pick(masks_of(pruner(scope="layer"), params))]
    assert abs(evenly[0] - evenly[1]) < 1 / 24


@every_score
@every_scope
def test_masks_are_bools_like_the_parameters_and_true_where_nothing_is_prunable(
    score: str, scope: str
) -> None:
    params = model(0)
    masks = masks_of(pruner(score, scope), params)
    assert jax.tree.map(np.shape, masks) == jax.tree.map(
        lambda leaf: (CLIENTS, *leaf.shape), params
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(masks)} == {np.dtype(bool)}
    assert masks[0]["bias"].all()
    assert masks[3]["kernel"].all()


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
@every_scope
def test_a_higher_rate_keeps_a_subset_of_what_a_lower_rate_keeps(score: str, scope: str) -> None:
    masks = flat(pick(masks_of(pruner(score, scope), model(3))))
    order = np.argsort(RATES, kind="stable")
    for low, high in zip(order[:-1], order[1:], strict=True):
        assert np.all(masks[low] | ~masks[high])


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_clients_with_equal_rates_have_equal_numbers_and_equal_masks(score: str) -> None:
    group = pruner(score).mask_group
    assert group is not None
    masks = flat(pick(masks_of(pruner(score), model(0))))
    for a, b in itertools.product(range(CLIENTS), repeat=2):
        assert (group[a] == group[b]) == (RATES[a] == RATES[b])
        assert np.array_equal(masks[a], masks[b]) == (RATES[a] == RATES[b])


@every_score
def test_mask_groups_are_numbered_from_zero(score: str) -> None:
    group = pruner(score).mask_group
    if SCORES[score].draw is not None:
        # No two clients share masks, whatever their rates.
        assert group is None
    else:
        assert group is not None
        assert sorted(set(group.tolist())) == list(range(len(set(RATES))))


@every_score
def test_a_mask_is_sent_as_one_bit_for_each_prunable_weight(score: str) -> None:
    bits = pruner(score).mask_bits(masks_of(pruner(score), model(0)))
    assert bits == sum(leaf.size for leaf in pick(model(0))) == sum(SIZES.values())


RAMP = 4


@every_score
@every_scope
def test_the_ramp_starts_at_nothing_and_grows_to_the_final_rate(score: str, scope: str) -> None:
    params, ramped = model(0), pruner(score, scope, RAMP)
    removed = np.array(
        [(~flat(pick(masks_of(ramped, params, round_)))).sum(1) for round_ in range(RAMP + 3)]
    )
    assert not removed[0].any()
    assert np.all(np.diff(removed, axis=0) >= 0)
    final = (~flat(pick(masks_of(pruner(score, scope), params)))).sum(1)
    np.testing.assert_array_equal(removed[RAMP:], np.tile(final, (3, 1)))
    assert np.all(removed[1] < final, where=np.array(RATES) > 0)


def test_the_ramp_meets_the_cubic_formula_to_one_weight() -> None:
    for round_ in range(RAMP + 1):
        removed = (~flat(pick(masks_of(pruner(ramp=RAMP), model(0), round_)))).sum(1)
        rates = np.array(RATES) * (1 - (1 - round_ / RAMP) ** 3)
        np.testing.assert_array_equal(removed, np.rint(rates * sum(SIZES.values())))


def test_random_masks_differ_by_client_round_and_key_and_repeat_for_the_same() -> None:
    # Clients 0 and 3 have the same rate.
    params, random = model(0), pruner("random")
    first = flat(pick(masks_of(random, params, 1)))
    np.testing.assert_array_equal(first, flat(pick(masks_of(random, params, 1))))
    assert not np.array_equal(first[0], first[3])
    for other in (masks_of(random, params, 2), masks_of(random, params, 1, seed=1)):
        assert not np.array_equal(first[0], flat(pick(other))[0])


def test_random_masks_do_not_depend_on_the_weights() -> None:
    masks = masks_of(pruner("random"), model(0))
    assert_trees_equal(masks, masks_of(pruner("random"), model(1)))


def test_random_masks_remove_every_weight_alike() -> None:
    rounds = 200
    random = pruner("random")
    kept = np.mean([flat(pick(masks_of(random, model(0), r)))[4] for r in range(rounds)], axis=0)
    # Client 4 keeps half: each weight is kept in half of the rounds, within five deviations.
    assert np.all(np.abs(kept - 0.5) <= 5 * 0.5 / np.sqrt(rounds))


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_masks_of_ranked_scores_depend_on_neither_key_nor_round(score: str) -> None:
    first = masks_of(pruner(score), model(0), 0, 0)
    assert_trees_equal(first, masks_of(pruner(score), model(0), 5, 1))


def update(
    pruner: Pruner, state: PruningState, before: Any, after: Any, kept: Any, rate: float = 0.1
) -> PruningState:
    return jax.jit(pruner.update)(state, before, after, kept, jnp.float32(rate))


def test_magnitude_masks_follow_the_aggregated_weights() -> None:
    before, after = model(0), model(1)
    dynamic = pruner()
    state = update(dynamic, dynamic.init(before), before, after, zeros_like(before))
    # The masks are those of the new weights alone, also where nobody kept a weight.
    masks = masks_of(dynamic, after, state=state)
    assert_trees_equal(masks, masks_of(dynamic, after))
    assert not np.array_equal(flat(pick(masks)), flat(pick(masks_of(dynamic, before))))
    assert state.score_state is None


def random_kept(seed: int = 9) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.6), model(0))


def test_before_the_first_aggregation_taylor_ranks_by_magnitude() -> None:
    assert_trees_equal(masks_of(pruner("taylor"), model(0)), masks_of(pruner(), model(0)))


def reference(
    last: list[np.ndarray] | None, before: Any, after: Any, kept: Any, rate: float
) -> list[np.ndarray]:
    """Taylor scores in float64, by the formula, for one leaf after the other."""
    expected = []
    for i, row in enumerate(zip(*map(pick, (before, after, kept)), strict=True)):
        old, new, mask = (np.asarray(x, np.float64) for x in row)
        gradient = np.abs(new - old) / rate
        scores = np.abs(new) * gradient
        typical = np.sum(scores[mask > 0]) / np.sum(np.abs(new)[mask > 0])
        if last is None:
            expected.append(np.where(mask, scores, np.abs(new) * typical))
        else:
            expected.append(np.where(mask, scores, 0.5 * last[i]))
    return expected


def test_taylor_scores_are_weight_times_gradient_and_halve_in_absence() -> None:
    taylor = pruner("taylor")
    state, last = taylor.init(model(0)), None
    for period, rate in enumerate((0.5, 0.01, 2.0)):
        before, after, kept = model(period), model(period + 1), random_kept(period)
        state = update(taylor, state, before, after, kept, rate)
        last = reference(last, before, after, kept, rate)
        assert state.score_state is not None
        for actual, expected in zip(state.score_state, last, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_taylor_scores_do_not_depend_on_the_learning_rate() -> None:
    taylor, after, kept = pruner("taylor"), model(1), random_kept()

    def stepped(rate: float) -> Any:
        before = jax.tree.map(lambda w, g: w + rate * g, after, model(5))
        return update(taylor, taylor.init(before), before, after, kept, rate).score_state

    for fast, slow in zip(stepped(0.5), stepped(0.125), strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_a_period_in_which_nothing_is_learnt_leaves_taylor_scores_and_ranks(rate: float) -> None:
    before, after, taylor = model(0), model(1), pruner("taylor")
    kept = jax.tree.map(lambda leaf: jnp.full(leaf.shape, rate == 0), before)
    start = taylor.init(before)
    assert_trees_equal(update(taylor, start, after, model(2), kept, rate), start)


def test_a_leaf_that_nobody_kept_has_the_gradient_of_the_others() -> None:
    taylor, before, after = pruner("taylor"), model(0), model(1)
    kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), before)
    kept[2]["kernel"] = jnp.zeros_like(kept[2]["kernel"])
    state = update(taylor, taylor.init(before), before, after, kept, 0.1)
    old, new = (np.asarray(tree[0]["kernel"], np.float64) for tree in (before, after))
    typical = np.sum(np.abs(new * (new - old))) / np.sum(np.abs(new)) / 0.1
    assert state.score_state is not None
    expected = typical * np.abs(np.asarray(after[2]["kernel"]))
    np.testing.assert_allclose(state.score_state[1], expected, rtol=1e-5)


@every_scope
def test_the_least_taylor_scores_are_removed(scope: str) -> None:
    before, after, taylor = model(0), model(1), pruner("taylor", scope)
    state = update(taylor, taylor.init(before), before, after, random_kept())
    assert state.score_state is not None
    scores: Any = ({"kernel": state.score_state[0]}, {}, {"kernel": state.score_state[1]})
    masks = competing(masks_of(taylor, after, state=state), scope)
    for mask, score in zip(masks, competing(same_for_all(scores), scope), strict=True):
        for kept, of_client in zip(mask, score, strict=True):
            assert np.max(of_client[~kept], initial=0) <= np.min(of_client[kept])


@every_score
def test_a_weight_that_was_pruned_can_come_back(score: str) -> None:
    before, after = model(0), model(1)
    dynamic = pruner(score)
    state = dynamic.init(before)
    first = flat(pick(masks_of(dynamic, before, 0, state=state)))
    kept = jax.tree.map(lambda m: jnp.asarray(m.any(axis=0)), masks_of(dynamic, before))
    state = update(dynamic, state, before, after, kept)
    second = flat(pick(masks_of(dynamic, after, 1, state=state)))
    assert np.any(second & ~first)


@every_score
@every_scope
def test_a_part_without_prunable_weights_keeps_all(score: str, scope: str) -> None:
    params: Any = ({}, {"bias": jnp.ones(3)})
    nothing = weight_pruner((), ({}, {"bias": False}), {}, RATES, SCORES[score], scope, RAMP)
    state = nothing.update(nothing.init(params), params, params, zeros_like(params), jnp.ones(()))
    masks = masks_of(nothing, params, RAMP, state=state)
    assert_trees_equal(masks, ({}, {"bias": np.ones((CLIENTS, 3), bool)}))
    assert nothing.mask_bits(masks) == 0 and nothing.names == ()


@every_score
def test_mapped_over_clients_equals_a_python_loop(score: str) -> None:
    params, looped = model(0), pruner(score)
    together = masks_of(looped, params, 1)
    state = looped.init(params)
    for client in range(CLIENTS):
        alone = looped.masks(state, params, jax.random.key(0), jnp.int32(1), jnp.int32(client))
        assert_trees_equal(alone, jax.tree.map(lambda leaf, n=client: leaf[n], together))


def test_rate_zero_keeps_all() -> None:
    masks = masks_of(pruner(rates=(0.0,) * CLIENTS), model(0))
    assert all(leaf.all() for leaf in jax.tree.leaves(masks))


def test_keep_zeroes_what_is_pruned_exactly_and_leaves_the_rest() -> None:
    params, masks = model(0), random_kept()
    params[0]["kernel"] = jnp.where(masks[0]["kernel"], params[0]["kernel"], jnp.nan)
    kept = keep(params, masks)
    expected = jax.tree.map(lambda w, m: np.where(m, w, np.float32(0)), params, masks)
    assert_trees_equal(kept, expected)
    assert np.isfinite(np.asarray(kept[0]["kernel"])).all()


def test_no_gradient_reaches_pruned_weights() -> None:
    params, masks = model(0), random_kept()

    def loss(params: Any) -> Array:
        return sum(jnp.sum(jnp.exp(leaf)) for leaf in jax.tree.leaves(keep(params, masks)))

    expected = jax.tree.map(lambda w, m: np.where(m, jnp.exp(w), 0), params, masks)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), jax.grad(loss)(params), expected)


def small_cnn(norm: str) -> Any:
    """Shapes of the parameters of a convolutional network with 7 layers."""
    x = jnp.zeros((1, 8, 8, 1))
    init = partial(layers.init, cnn(4, norm, widths=(8, 12), units=16))
    return jax.eval_shape(init, jax.random.key(0), x).params


def prunable_paths(params: Any, model_layers: int | None = None) -> set[str]:
    flags = prunable(params, model_layers)
    assert jax.tree.structure(flags) == jax.tree.structure(params)
    return {
        jax.tree_util.keystr(path)
        for path, flag in jax.tree_util.tree_leaves_with_path(flags)
        if flag
    }


KERNELS = [
    "[0]['Conv_0']['kernel']",
    "[2]['Conv_0']['kernel']",
    "[5]['Dense_0']['kernel']",
    "[6]['kernel']",
]


@pytest.mark.parametrize("norm", NORMS)
def test_only_kernels_are_prunable_and_not_those_of_the_last_layer(norm: str) -> None:
    params = small_cnn(norm)
    assert prunable_paths(params, 7) == set(KERNELS[:3])
    assert prunable_paths(params) == set(KERNELS)


def test_the_last_layer_before_the_cut_is_prunable() -> None:
    params = small_cnn("group")[:3]
    assert prunable_paths(params, 7) == prunable_paths(params) == set(KERNELS[:2])
