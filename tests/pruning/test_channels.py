"""Pruning of channels: counts, scores, regrowth; whole rounds against masked dense layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, setup, slow

from jfedsl.models.cnn import cnn
from jfedsl.models.mlp import mlp
from jfedsl.pruning.channels import channel_pruner
from jfedsl.pruning.plan import Plan, trace
from jfedsl.pruning.pruner import Pruner
from jfedsl.pruning.scores import SCORES
from pruning import masked

LADDER = (1.0, 0.75, 0.5, 0.25)
every_score = pytest.mark.parametrize("score", SCORES)


def small_plan(norm: str = "group") -> Plan:
    side = cnn(10, norm, (8, 16), 32)[:6]
    return trace(side, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))


def params_of(plan: Plan, seed: int) -> Any:
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda s: jnp.asarray(draw(size=s.shape), jnp.float32), plan.shapes.params)


def masks_of(pruner: Pruner, state: Any, params: Any, round_: int = 0, client: int = 0) -> Any:
    numbers = (jnp.int32(round_), jnp.int32(client))
    return [np.asarray(m) for m in pruner.masks(state, params, jax.random.key(5), *numbers)]


@every_score
@pytest.mark.parametrize("norm", ["group", "none"])
def test_every_group_of_every_layer_keeps_its_rung_of_channels(score: str, norm: str) -> None:
    plan = small_plan(norm)
    pruner = channel_pruner(plan, (0.0, 0.3, 0.5, 0.8, 0.6), LADDER, SCORES[score])
    params = params_of(plan, 0)
    state = pruner.init(params)
    for client, rung in enumerate((1.0, 0.75, 0.5, 0.25, 0.5)):
        masks = masks_of(pruner, state, params, client=client)
        for mask, source in zip(masks, plan.sources, strict=True):
            kept_counts = mask.reshape(source.groups, -1).sum(axis=1)
            assert set(kept_counts.tolist()) == {rung * source.size / source.groups}
    assert [members.tolist() for members in pruner.groups] == [[0], [1], [2, 4], [3]]
    assert sum(map(len, pruner.width_configs)) == 4, "one width configuration of four groups"


def test_the_channels_of_least_norm_are_removed() -> None:
    plan = small_plan("none")
    params, pruner = params_of(plan, 1), channel_pruner(plan, (0.5,), LADDER)
    masks = masks_of(pruner, pruner.init(params), params)
    for mask, kernel in zip(masks, (params[0], params[2], params[5]), strict=True):
        (weights,) = [w for w in jax.tree.leaves(kernel) if w.ndim > 1]
        norms = np.sqrt(
            (np.asarray(weights, np.float64) ** 2).sum(axis=tuple(range(weights.ndim - 1)))
        )
        assert norms[mask].min() > norms[~mask].max()


def test_a_pruned_channel_can_come_back_when_kept_ones_shrink() -> None:
    plan = small_plan("none")
    params, pruner = params_of(plan, 1), channel_pruner(plan, (0.5,), LADDER)
    state = pruner.init(params)
    before = masks_of(pruner, state, params)
    kept = pruner.kept([jnp.asarray(m) for m in before]).params
    after = jax.tree.map(lambda w, k: jnp.where(k, 0.01 * w, w), params, kept)
    state = pruner.update(state, params, after, [jnp.asarray(m) for m in before], jnp.ones(()))
    now = masks_of(pruner, state, after)
    assert any((n & ~b).any() for n, b in zip(now, before, strict=True))


def test_taylor_scores_of_channels_are_norms_over_the_learning_rate() -> None:
    plan = small_plan("none")
    pruner = channel_pruner(plan, (0.5,), LADDER, SCORES["taylor"])
    before, after = params_of(plan, 1), params_of(plan, 2)
    kept = [jnp.arange(source.size) % 3 > 0 for source in plan.sources]
    state = pruner.update(pruner.init(before), before, after, kept, jnp.float32(0.25))
    assert state.score_state is not None
    w, v = (np.asarray(tree[2]["Conv_0"]["kernel"], np.float64) for tree in (before, after))
    mask = np.asarray(kept[1])
    change, size = (np.sqrt((x**2).sum(axis=(0, 1, 2))) for x in (v * (v - w), v))
    typical = change[mask].sum() / size[mask].sum()
    expected = np.where(mask, change, size * typical) / 0.25
    np.testing.assert_allclose(state.score_state[1], expected, rtol=1e-5)
    again = pruner.update(state, before, after, kept, jnp.float32(0.5))
    assert again.score_state is not None
    expected = np.where(mask, change / 0.5, expected / 2)
    np.testing.assert_allclose(again.score_state[1], expected, rtol=1e-5)


def test_random_channels_differ_by_client_and_round_and_repeat_for_the_same() -> None:
    plan = small_plan("none")
    params, pruner = params_of(plan, 1), channel_pruner(plan, (0.5,) * 3, LADDER, SCORES["random"])
    state = pruner.init(params)
    masks = masks_of(pruner, state, params, 2, 1)
    assert differs(masks, masks_of(pruner, state, params, 2, 2))
    assert differs(masks, masks_of(pruner, state, params, 4, 1))
    assert_equal(masks, masks_of(pruner, state, params, 2, 1))


def test_masks_are_sent_as_a_bitmap_or_as_indices_whichever_is_shorter() -> None:
    plan = small_plan("none")  # 8, 16 and 32 channels: 3, 4 and 5 bits an index
    for rate, expected in ((0.5, 8 + 16 + 32), (0.75, 6 + 16 + 32), (0.875, 3 + 8 + 20)):
        pruner = channel_pruner(plan, (rate,), (0.5, 0.25, 0.125))
        params = params_of(plan, 0)
        masks = pruner.masks(
            pruner.init(params), params, jax.random.key(0), jnp.int32(0), jnp.int32(0)
        )
        assert int(pruner.mask_bits(masks)) == expected


def test_what_a_client_keeps_is_weights_bias_norm_and_inputs_of_kept_channels() -> None:
    plan = small_plan("group")
    masks = [jnp.arange(source.size) % 2 == 0 for source in plan.sources]
    kept = channel_pruner(plan, (0.5,), LADDER).kept(masks).params
    kernel = np.asarray(kept[2]["Conv_0"]["kernel"])
    assert kernel[:, :, ::2, ::2].all() and kernel.sum() == 9 * 4 * 8
    for name in ("scale", "bias"):
        np.testing.assert_array_equal(kept[2]["GroupNorm_0"][name], masks[1])
    dense = np.asarray(kept[5]["Dense_0"]["kernel"]).reshape(4, 16, 32)
    assert dense[:, ::2, ::2].all() and dense.sum() == 4 * 8 * 16


def test_a_rung_that_leaves_nothing_names_the_layer() -> None:
    side = mlp(10, "none", (16, 4))[:3]
    plan = trace(side, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    with pytest.raises(ValueError, match="0.1 leaves none of the 4 of dense2"):
        channel_pruner(plan, (0.9,), (1.0, 0.1))
    with pytest.raises(ValueError, match="0.1 leaves none of the 4 of conv1 in each of its 2 gr"):
        channel_pruner(small_plan("group"), (0.9,), (1.0, 0.1))


PROTOCOL: dict[str, Any] = {
    "prune_kind": "channel",
    "prune_rate": (0.5, 0.25, 0.5, 0.5),
    "dropout_rate": 0.3,
    "aggregate_every": 2,
    "local_steps": 2,
    "rounds": 6,
    "aggregation": "examples",
    "partition": "quantity",
    "quantity_alpha": 5.0,
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("model", "norm", "optimizer", "more"),
    [
        ("mlp", "group", "sgd", {"cut": "dense2", "momentum": 0.9, "weight_decay": 0.01}),
        slow(*("mlp", "batch", "adam", {"client_optimizer_state": "average", "participants": 3})),
        slow(*("cnn", "group", "sgd", {"cut": "dense", "momentum": 0.9, "prune_score": "taylor"})),
    ],
)
def test_rounds_with_narrow_arrays_equal_rounds_with_masked_dense_ones(
    model: str, norm: str, optimizer: str, more: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jfedsl.run.assemble import pruning

    def run() -> Any:
        experiment, state, one_round = setup(
            model=model, norm=norm, optimizer=optimizer, **PROTOCOL, **more
        )
        records = []
        for _ in range(4):
            state, record = one_round(state)
            records.append(record)
        return experiment, state, records

    experiment, narrowed, records = run()

    def dense_pruner(plan: Plan, *arguments: Any) -> Pruner:
        pruner = channel_pruner(plan, *arguments)
        return pruner._replace(forwards=(masked.masked_forward(plan),) * len(pruner.forwards))

    monkeypatch.setattr(pruning, "channel_pruner", dense_pruner)
    _, expected, expected_records = run()
    assert_equal(narrowed.clients.masks, expected.clients.masks)
    for record, expected_record in zip(records, expected_records, strict=True):
        np.testing.assert_allclose(record.losses, expected_record.losses, rtol=1e-3)
        assert_equal(record.sent, expected_record.sent)
    assert_close(narrowed.aggregator.params, expected.aggregator.params, rtol=1e-3, atol=1e-4)
    assert_close(narrowed.aggregator.stats, expected.aggregator.stats, rtol=1e-3, atol=1e-4)
    assert_close(narrowed.clients.optimizer, expected.clients.optimizer, rtol=1e-2, atol=1e-4)
    assert len(experiment.spec.group_sizes) == 2
    initial = experiment.init().clients.masks
    assert differs(initial, narrowed.clients.masks), "the masks have to change in the test"
