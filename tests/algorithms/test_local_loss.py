"""Clients that step on the loss of a head of their own, and upload now and then."""

import jax
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, plain, setup, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.engine.averaging import joined
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import build

SMASHED, LABELS = 8 * 256, 8 * 4 // 8  # entries of a mini-batch at the cut, bytes of its labels


@pytest.mark.parametrize("upload_every", [1, 2])
def test_with_the_servers_part_as_head_a_client_steps_as_in_splitfed(
    monkeypatch: pytest.MonkeyPatch, upload_every: int
) -> None:
    server_part = MODELS["mlp"].build(10, "none")[2:]
    twin = ALGORITHMS["local_loss"]._replace(auxiliary=lambda options, classes, tokens: server_part)
    monkeypatch.setitem(ALGORITHMS, "local_loss", twin)
    same = {"cut": "dense1", "aggregate_every": 3}
    e, state, run = setup(algorithm="local_loss", upload_every=upload_every, **same)
    assert len(state.clients.params) == 2 + len(server_part)
    held = state.aggregator.params[:2] + state.server.params  # what a new period hands out
    after, record = run(state.replace(aggregator=state.aggregator.replace(params=held)))
    _, other, split = setup(**same)
    expected, beside = split(other)
    assert_close(after.clients.params[:2], expected.clients.params)
    assert_close(record.losses, beside.losses)
    assert_close(after.server.params, expected.server.params)


def test_bytes_are_those_counted_by_hand():
    e, state, run = setup(
        algorithm="local_loss", aux="mlp(16)", upload_every=3, local_steps=4, aggregate_every=2
    )
    part = 64 * 256 + 256
    head = 256 * 16 + 16 + 16 * 10 + 10
    for number in range(2):
        servers = [np.asarray(leaf) for leaf in jax.tree.leaves(state.server.params)]
        state, record = run(state)
        due = [(4 * number + step) % 3 == 0 for step in range(4)]
        expected = np.where(due, 4 * SMASHED + LABELS, 0)
        assert_equal(record.sent["smashed_up"], np.repeat(expected[:, None], 4, axis=1))
        model = [0, 4 * (part + head)][:: 1 if number else -1]
        assert (record.sent["model_down"] == model[0]).all()
        assert (record.sent["model_up"] == model[1]).all()
        assert differs(servers, jax.tree.leaves(state.server.params))
    assert "cut_gradient_down" not in record.sent
    assert len(state.aggregator.params) == 2 + 3, "the head is averaged with the client part"
    assert len(joined(e.spec, e.data.partition, state).params) == len(e.spec.model)


def test_the_server_rests_between_uploads():
    _, state, run = setup(algorithm="local_loss", upload_every=4, aggregate_every=4)
    state, _ = run(state)
    after, record = run(state)
    assert_equal(after.server.params, state.server.params)
    assert not record.sent["smashed_up"].any()
    assert differs(after.clients.params, state.clients.params)


@pytest.mark.parametrize("kind", [slow("mask"), "channel"])
def test_heads_are_never_pruned(kind: str) -> None:
    e, state, run = setup(
        algorithm="local_loss", prune_kind=kind, prune_rate=(0.5,), client_gradient_bits=8
    )
    after, record = run(state)
    _, dense = joined(e.spec, e.data.partition, after), after.aggregator.params[2:]
    kept = e.spec.pruner.kept(jax.tree.map(lambda m: m[0], after.clients.masks))
    assert all(leaf.all() for leaf in jax.tree.leaves(kept.params[2:]))
    assert 0.4 < float(record.pruned_fraction) < 0.6
    pairs = zip(*map(jax.tree.leaves, (dense, state.aggregator.params[2:])), strict=True)
    changed = [np.mean(np.asarray(leaf) != before) for leaf, before in pairs]
    assert min(changed) > 0.4, "every head learns in all its weights that have an input"


def test_a_client_out_of_reach_trains_but_uploads_in_vain():
    away = {"outage_snr_db": 200.0, "network": "macro_cell"}
    e = build(plain(algorithm="local_loss", clients=2, aggregate_every=3, **away))
    state = e.init()
    state = state.replace(round=state.round + 1, has_current_model=np.ones(2, bool))
    before = jax.device_get(state)
    after, record = e.rounds(1)(e.data, e.key, state, 1)
    assert record.took_part[0].all() and record.sent["smashed_up"].all()
    assert differs(after.clients.params, before.clients.params)
    assert_equal(after.server.params, before.server.params)


@pytest.mark.parametrize("aux", [slow("linear"), "conv"])
def test_heads_suit_images(aux: str) -> None:
    _, state, run = setup(model="cnn", algorithm="local_loss", aux=aux)
    _, record = run(state)
    assert np.isfinite(record.losses).all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"aux": "mlp"}, r"--aux must be linear, mlp\(UNITS\) or conv, not mlp"),
        ({"upload_every": 0}, "--upload_every must be a whole number"),
        ({"cut_gradient": "uniform(8)"}, "--cut_gradient=.* has no effect with --algorithm=local_"),
        ({"deadline_s": 1.0}, "--deadline_s=1.0 has no effect with --algorithm=local_loss; remove"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Config(algorithm="local_loss", **changes)
