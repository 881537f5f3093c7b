"""Clients with different cuts."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins
from helpers import assert_close, assert_equal, plain, setup, slow

from jfedsl.config import Config
from jfedsl.data.datasets import DATASETS
from jfedsl.engine.averaging import joined
from jfedsl.engine.server_layers import mean_of_served, served_weights
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.pruning.cuts import CutLayout
from jfedsl.run.assemble import build
from jfedsl.run.evaluate import evaluate_run
from jfedsl.run.load import load
from jfedsl.run.training import train

CNN = {"model": "cnn", "norm": "group"}
MIXES = [
    ("mlp", "none", "3,2,3,2", "2"),
    ("cnn", "group", "5,1,3,6", "3"),
    *(slow("cnn", "group", f"{first},{last},{first},{last}", str(first))
      for last in range(2, 7) for first in range(1, last)),
]  # fmt: skip


def whole(run: Any) -> Any:
    """Parameters of the whole model of an experiment and a state."""
    e, state = run
    return joined(e.spec, e.data.partition, state).params


@pytest.mark.parametrize(("model", "norm", "cuts", "one"), MIXES)
def test_one_step_with_any_cuts_is_that_with_one_cut(
    model: str, norm: str, cuts: str, one: str
) -> None:
    common = {"model": model, "norm": norm, "partition": "dirichlet", "aggregation": "examples"}
    e, state, run = setup(cut=cuts, **common)
    other, beside, alone = setup(cut=one, **common)
    for _ in range(2):
        state, record = run(state)
        beside, expected = alone(beside)
        np.testing.assert_allclose(record.losses, in_order(e, other, expected.losses), rtol=2e-5)
    assert_close(whole((e, state)), whole((other, beside)))


def test_adapters_too_take_the_step_of_one_cut(tables: None, tmp_path: Path) -> None:
    DATASETS["texts"] = stand_ins.texts
    common = {"dataset": "texts", "pretrained": stand_ins.write_model(tmp_path, "bert"),
              "tokens": 6, "adapter": "lora(rank=2)", "model": "cnn", "norm": "group"}  # fmt: skip
    e, state, run = setup(cut="block2,block1,block1,block2", **common)
    assert e.spec.cuts is not None and not e.spec.cuts.layout.is_flat
    other, beside, alone = setup(cut="block1", **common)
    for _ in range(2):
        state, record = run(state)
        beside, expected = alone(beside)
    np.testing.assert_allclose(record.losses, in_order(e, other, expected.losses), rtol=2e-5)
    assert_close(whole((e, state)), whole((other, beside)))
    with pytest.raises(UserError, match="no layer up to embed has parameters"):
        build(plain(cut="embed-block1", **common))
    with pytest.raises(UserError, match="padded sequences need one shape"):
        build(plain(cut="block1-pool", **{**common, "adapter": "full"}))


def in_order(mixed: Any, other: Any, losses: Any) -> Any:
    """Losses `[S, K]` of one experiment in the order of the participants of another."""
    place = np.argsort(np.concatenate(other.spec.pruner.groups))
    return np.asarray(losses)[:, place[np.concatenate(mixed.spec.pruner.groups)]]


def test_an_exchange_of_a_client_is_that_of_a_run_with_its_cut_for_all() -> None:
    common = {**CNN, "prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.0, 0.5),
              "network": "macro_cell", "aggregate_every": 2, "clients": 4}  # fmt: skip
    cuts = ("pool1", "pool1", "conv2", "pool2")
    e, state, run = setup(cut=",".join(cuts), **common)
    assert len(e.spec.pruner.groups) == 4
    state, record = run(state)
    up, down = (np.asarray(record.sent[name])[0] for name in ("smashed_up", "cut_gradient_down"))
    server = np.asarray(e.spec.radio.flop_counts.server)
    order = np.asarray(state.participants)
    for cut in set(cuts):
        other, beside, alone = setup(cut=cut, **common)
        depth = other.spec.cut
        beside, expected = alone(beside)
        rows = np.argsort(np.asarray(beside.participants))
        for row, client in enumerate(order):
            if cuts[client] != cut:
                continue
            at = rows[client]
            ours = jax.tree.map(lambda w, r=row: w[r], state.clients.params[:depth])
            theirs = jax.tree.map(lambda w, a=at: w[a], beside.clients.params)
            assert_close(ours, theirs)
            assert up[row] == expected.sent["smashed_up"][0][at]
            assert down[row] == expected.sent["cut_gradient_down"][0][at]
            assert record.sent["model_down"][row] == expected.sent["model_down"][at]
            for time in ("forward", "backward"):
                mine, other_time = (getattr(r.conditions, time) for r in (record, expected))
                np.testing.assert_allclose(mine[row], other_time[at], rtol=1e-6)
            assert server[row] == np.float32(other.spec.radio.flop_counts.server)
            received = jax.tree.map(lambda w: w, state.aggregator.params[depth:])
            kept = jax.tree.map(lambda w, r=row: w[r], state.clients.params[depth:])
            assert_equal(kept, received)  # it has no use for what lies behind its cut


def test_the_server_averages_over_those_it_computes_a_layer_for() -> None:
    e, _, _ = setup(cut="5,1,3,1", **CNN)
    spec = e.spec
    of_participants = jnp.asarray([0.1, 0.2, 0.3, 0.4])  # cuts 1, 1, 3, 5 in the order of groups
    assert spec.cuts is not None and spec.cuts.of_group == (1, 3, 5)
    expected = [0.3, 0.3, 0.6, 0.6, 1.0, 1.0]
    np.testing.assert_allclose(served_weights(spec, of_participants), expected, rtol=1e-6)
    ones = jax.tree.map(jnp.ones_like, e.init().server.params)
    mean, passed = mean_of_served(spec, of_participants.at[:2].set(0.0), ones)
    shares = [0.0, 0.0, 0.3, 0.3, 0.7, 0.7]
    for layer, flags, share in zip(mean, passed, shares, strict=True):
        for leaf, flag in zip(jax.tree.leaves(layer), jax.tree.leaves(flags), strict=True):
            np.testing.assert_allclose(leaf, 1.0 / share if share else 1.0, rtol=1e-6)
            assert np.all(flag == (share > 0))


def test_bytes_without_compression_are_those_of_each_cut() -> None:
    e, state, run = setup(cut="conv2,pool1,pool2,pool1", local_steps=2, **CNN)
    _, record = run(state)
    fresh = state.aggregator
    expected = uncompressed_bytes(e.spec, fresh.params, fresh.stats, e.image.shape, 1)
    assert {name: int(np.sum(sent)) for name, sent in record.sent.items()} == expected
    each = [_alone(cut) for cut in ("conv2", "pool1", "pool2", "pool1")]
    assert expected == {name: sum(one[name] for one in each) // 4 for name in expected}


def _alone(cut: str) -> dict[str, int]:
    e = build(plain(cut=cut, local_steps=2, **CNN))
    fresh = e.init().aggregator
    return uncompressed_bytes(e.spec, fresh.params, fresh.stats, e.image.shape, 1)


def test_the_averaged_model_is_evaluated_whatever_the_cuts() -> None:
    compressed = {**CNN, "smashed": "uniform(4)", "test_examples": 100}
    e, state, run = setup(cut="conv2,pool1,pool2,pool1", **compressed)
    state, _ = run(state)
    found = e.evaluate()(e.data, state, e.test)
    params = whole((e, state))
    one = build(plain(cut="pool1", **compressed))
    depth = one.spec.cut
    fresh = one.init()
    same = fresh.replace(
        aggregator=fresh.aggregator.replace(params=params[:depth]),
        server=fresh.server.replace(params=params[depth:]),
        clients=fresh.clients.replace(params=jax.tree.map(
            lambda w, like: jnp.broadcast_to(w, like.shape), params[:depth], fresh.clients.params
        )),
    )  # fmt: skip
    expected = one.evaluate()(one.data, same, one.test)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert found.metric == found.metric_dense == expected.metric
    # Each client's activation is quantized at its own cut.
    assert abs(float(found.metric_deployed - found.metric)) < 0.2


def test_an_export_says_who_computes_a_layer(tmp_path: Path) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "export"
    common = {**CNN, "norm": "batch", "test_examples": 20, "loggers": "none", "workdir": run}
    train(plain(cut="pool2,pool1,pool1,pool2", prune_kind="channel", rounds=2, **common))
    evaluate_run(run, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["cut_of_client"] == ["pool2", "pool1", "pool1", "pool2"]
    with np.load(out / "client_masks.npz") as masks:
        of_conv2 = masks["params.conv2.Conv_0.kernel"][np.array(manifest["model_of_client"])]
    assert not of_conv2[0].all() and of_conv2[1].all()  # the server computes it for client 1
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1))
    assert_equal(load(out).logits(images), load(run).logits(images))


def test_activations_of_any_shape_share_an_array() -> None:
    layout = CutLayout({2: (4, 4, 3), 5: (2, 2, 8), 7: (5,)})
    assert layout.is_flat and layout.shape == (48,)
    for cut, shape in layout.shapes.items():
        values = jax.random.normal(jax.random.key(cut), (6, *shape))
        assert_equal(layout.split(layout.join(values), cut), values)
        channels = jnp.arange(shape[-1]) % 2 == 0
        there = layout.entries(cut, channels)
        assert int(there.sum()) == int(channels.sum()) * (layout.size(cut) // shape[-1])
        marked = layout.join(jnp.broadcast_to(channels.astype(jnp.float32), (1, *shape)))[0]
        assert_equal(there, marked > 0)
        assert_equal(layout.entries(cut, None), layout.join(jnp.ones((1, *shape)))[0] > 0)
    alike = CutLayout({1: (3, 8), 2: (3, 8)})
    assert not alike.is_flat and alike.shape == (3, 8)


ERRORS = [
    (
        {"algorithm": "sfl_v1", "cut": "pool1-pool2"},
        "one cut for all clients with --algorithm=sfl_v1, not pool1-pool2",
    ),
    ({"cut": "pool1,pool2"}, "one cut, --clients=4 cuts or a range, not pool1,pool2"),
    ({"cut": "by_resource"}, "--cut=by_resource .* --network=none"),
    ({"cut": "pool1-pool2", "measure_constants_every": 2}, "bound is of one cut"),
    (
        {"cut": "1-2", "norm": "batch", "batch_norm_statistics": "local"},
        "=local cannot be combined",
    ),
]


@pytest.mark.parametrize(("changes", "text"), ERRORS)
def test_what_cuts_cannot_go_with_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        plain(**{**CNN, **changes})


LATER = [
    ("pool2-pool1", "from an earlier layer to a later one"),
    ("pool1-pol2", "pol2.*did you mean"),
    ("pool1,pool1,conv9,pool1", "one of conv1"),
]


@pytest.mark.parametrize("chain", ["splitfc(0.5)", "dropout(0.5,unit=channel)"])
def test_flattened_activations_have_no_channels(chain: str) -> None:
    with pytest.raises(UserError, match="without compressors of channels with --cut=pool1-pool2"):
        build(plain(cut="pool1-pool2", smashed=chain, **CNN))


@pytest.mark.parametrize(("cut", "text"), LATER)
def test_cuts_that_a_model_does_not_have_are_refused(cut: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build(plain(cut=cut, **CNN))


def test_a_cut_needs_parameters_before_it() -> None:
    with pytest.raises(UserError, match="no layer up to flatten has parameters"):
        build(plain(cut="1,2,2,2"))


def test_equal_cuts_are_one_cut() -> None:
    config: Config = plain(cut="pool1,pool1,pool1,pool1", **CNN)
    spec = build(config).spec
    assert spec.cuts is None and spec.cut == 2
