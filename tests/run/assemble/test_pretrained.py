"""Runs of pretrained transformers: what they compute at every cut, and what is refused."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, plain, setup, slow
from models.transformers import reference

from jfedsl.compression import packing
from jfedsl.compression.message import Message, kept_only
from jfedsl.config import Config
from jfedsl.config.adapters import parse
from jfedsl.data.datasets import DATASETS, from_arrays
from jfedsl.engine.averaging import joined
from jfedsl.engine.batch import next_batch
from jfedsl.engine.client_step import forward_one
from jfedsl.engine.messages import send_activation
from jfedsl.errors import UserError
from jfedsl.keys import Purpose, Stage, fold
from jfedsl.run.assemble import build
from jfedsl.run.evaluate import evaluate_run
from jfedsl.run.training import train

POSITIONS, TEXTS = 6, 64


def ids(vocabulary: int = 30) -> Any:
    """Texts of 2 to 6 ids, the first of which tells the class."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, vocabulary, (TEXTS, POSITIONS))
    x[np.arange(POSITIONS) >= rng.integers(2, POSITIONS + 1, TEXTS)[:, None]] = -1
    y = x[:, 0] % 3
    return from_arrays((x[:48], y[:48]), (x[48:], y[48:]), normalise=False)


@pytest.fixture(autouse=True)
def registered(tables: None) -> Iterator[None]:
    DATASETS["ids"] = lambda _: ids()
    yield


def settings(**changes: Any) -> dict[str, Any]:
    """A run of the tiny BERT on two clients."""
    given = {"dataset": "ids", "pretrained": str(reference.GOLDEN / "bert"), "clients": 2}
    given |= {"client_learning_rate": 0.5, "server_learning_rate": 0.5}
    given |= {"model": Config.model, "norm": Config.norm}
    return {**given, **changes}


CUTS = ("embed", "block1", "block2", "block3", "pool")


@pytest.mark.parametrize(
    ("cuts", "changes"),
    [
        (("block1", "block3"), {"adapter": "lora(rank=2,on=all,norms=yes)"}),
        slow(CUTS, {"adapter": "lora(rank=2)"}),
        slow(CUTS, {"adapter": "full"}),
        slow(CUTS[1:3], {"adapter": "lora(2)", "base": "int8"}),
        slow(CUTS[1:3], {"adapter": "lora(2)", "pretrained": str(reference.GOLDEN / "llama")}),
    ],
)
def test_a_step_is_the_same_at_every_cut(cuts: tuple[str, ...], changes: dict[str, Any]) -> None:
    """With one client and nothing compressed, cutting changes nothing."""
    results = []
    for cut in cuts:
        experiment, state, run = setup(**settings(clients=1, cut=cut, **changes))
        state, record = run(state)
        params = joined(experiment.spec, experiment.data.partition, state).params
        results.append((params, record.losses))
        start = experiment.initial.params
        moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), params, start)
        assert max(jax.tree.leaves(moved)) > 1e-3
    for result in results[1:]:
        assert_close(result, results[0], atol=1e-5)


def test_frozen_weights_are_neither_sent_nor_stepped_and_clients_share_them() -> None:
    experiment, state, run = setup(**settings(adapter="lora(rank=2,on=q)", cut="block2"))
    state, record = run(state)
    adapters = 2 * 2 * (16 * 2 + 2 * 16)  # blocks, factors
    assert sum(w.size for w in jax.tree.leaves(experiment.fresh().params)) == adapters // 2
    np.testing.assert_array_equal(record.sent["model_up"], [4 * adapters // 2] * 2)
    table = experiment.data.frozen[0]["tokens"]["embedding"]
    assert table.shape == (30, 16)  # no axis of clients
    frozen = sum(w.size for w in jax.tree.leaves(experiment.data.frozen))
    assert frozen > 4 * adapters


def test_ranks_follow_what_clients_can_compute() -> None:
    ranks = {"client_adapter": "lora(2-6,spread=by_resource)", "client_capacity": "0.25,1,0.5"}
    experiment = build(plain(**settings(clients=3, **ranks)))
    assert "adapters of clients: 1 of rank 3, 1 of rank 4, 1 of rank 6" in experiment.notes
    assert [len(group) for group in experiment.spec.pruner.groups] == [1, 1, 1]
    assert [group[0] for group in experiment.spec.pruner.groups] == [0, 2, 1]


def wrong(folder: Path, **changes: Any) -> str:
    """A copy of the tiny BERT with other entries of its config."""
    shutil.copytree(reference.GOLDEN / "bert", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "lora(rank=x)"}, "--adapter must be full, none or lora("),
        ({"adapter": "lora(on=query)"}, "on q+k+v+o+gate+up+down, or all, not lora(on=query)"),
        ({"adapter": "lora(on=gate)"}, "--adapter must be on q+k+v+o+up+down or all with"),
        ({"adapter": "lora(rank=inf)"}, "--adapter must be full, none or lora("),
        ({"client_adapter": "lora(rank=2,4)"}, "--client_adapter must be full, none or lora("),
        ({"client_adapter": "lora(rank=[2,4)"}, "--client_adapter must be full, none or lora("),
        ({"cut": "3"}, "--cut must be the name of a layer, such as block2, with --pretrained"),
        ({"cut": "block4"}, "--cut must be one of embed, block1, block2, block3, pool"),
        ({"prune_kind": "mask"}, "--prune_kind must be none with --adapter"),
        ({"client_adapter": "lora([2,4,8])"}, "--client_adapter must be one rank, --clients=2"),
        ({"adapter": "lora(4,spread=by_resource)"}, "--adapter must be full, none or lora("),
        ({"adapter": "lora(2-4,spread=by_resource)"}, "--client_capacity must be relative compute"),
        ({"dataset": "digits"}, "takes texts or token ids [T], and --dataset=digits has inputs"),
        ({"pretrained": "nowhere"}, "--pretrained=nowhere: there is no"),
        ({"adapter_averaging": "svd"}, "--client_optimizer_state must be reset with"),
        (
            {"algorithm": "u_shape", "cut": "block1", "tail": 3, "adapter": "lora(2)"},
            "--tail must be at most 2 with low-rank adapters on clients, not 3; block3 has some",
        ),
    ],
)
def test_one_line_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(plain(**settings(**changes)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_model_that_does_not_suit_is_refused_with_one_line(tmp_path: Path) -> None:
    other_width = wrong(tmp_path / "width", intermediate_size=20)
    few_tokens = wrong(tmp_path / "tokens", vocab_size=8)
    few_positions = wrong(tmp_path / "positions", max_position_embeddings=4)
    narrow = wrong(tmp_path / "heads", num_attention_heads=5)
    relative = wrong(tmp_path / "relative", position_embedding_type="relative_key")
    for folder, message in (
        (other_width, "kernel is [24, 16] in the pretrained model and [20, 16] here"),
        (few_tokens, "has 8 token ids from 0, and --dataset=ids has ids up to 29"),
        (few_positions, "must be at most 4, the positions of"),
        (narrow, "the number of heads divides the width 16, and 5 does not"),
        (relative, "position_embedding_type is absolute, not relative_key"),
    ):
        with pytest.raises(UserError) as error:
            build(plain(**settings(pretrained=folder)))
        assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_without_effect_are_refused() -> None:
    from jfedsl.config.canonical import refuse_idle

    with pytest.raises(UserError, match="--adapter=full has no effect without --pretrained"):
        refuse_idle([Config(adapter="full")])
    given = Config(pretrained=str(reference.GOLDEN / "bert"), model="mlp")
    with pytest.raises(UserError, match="--model=mlp has no effect with --pretrained"):
        refuse_idle([given])
    with pytest.raises(UserError, match="--client_backward=int8 has no effect with --pretrained"):
        refuse_idle([dataclasses.replace(given, model="cnn", client_backward="int8")])
    assert parse("lora(rank=0)") is not None
    frozen = {"adapter": "full", "client_adapter": "none", "base": "int8"}
    refuse_idle([dataclasses.replace(given, model="cnn", **frozen)])


@pytest.mark.slow  # of frozen kernels that do not move: tests/engine/test_frozen.py
@pytest.mark.parametrize("averaging", [{"adapter_averaging": kind} for kind in ("stack", "svd")])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    averaging: dict[str, Any], tmp_path: Path
) -> None:
    changes = {**averaging, "client_adapter": "lora([2,3])", "client_optimizer_state": "reset"}
    changes |= {"rounds": 3, "eval_every": 1, "momentum": 0.9, "loggers": ("none",)}
    changes |= {"pretrained": reference.shortened("bert", 2, tmp_path / "model")}
    config = plain(**settings(**changes))
    whole = train(dataclasses.replace(config, workdir=str(tmp_path / "whole")))
    parts = dataclasses.replace(config, workdir=str(tmp_path / "parts"))
    train(dataclasses.replace(parts, rounds=1))
    train(parts)
    metrics = [
        [{k: v for k, v in row.items() if k != "host_seconds"} for row in rows_of(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 3
    assert whole is not None
    errors = [row.get("adapter_error") for row in metrics[0]]
    assert errors == [None] * 3 if "stack" in averaging.values() else all(errors)
    # An evaluation later has the kernels to which products were added.
    tested = evaluate_run(tmp_path / "whole", tmp_path / "export")
    assert tested["test_loss"] == pytest.approx(float(metrics[0][-1]["test_loss"]), rel=1e-4)
    # By the model without ranks, as a picture or another program would use it.
    dense = float(metrics[0][-1]["test_accuracy_dense"])
    confusion = np.asarray(tested["joined"]["confusion"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(dense)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_counted_bytes_are_those_of_the_real_messages() -> None:
    """With padding, lengths, classes, dropout and quantizers, and adapters of different ranks."""
    compressed = {"smashed": "dropout(0.3)|uniform(4)", "cut_gradient": "uniform(8)"}
    ranks = {"client_adapter": "lora([1,2])", "aggregate_every": 1}
    experiment, state, run = setup(**settings(**compressed, **ranks))
    spec, data, key = experiment.spec, experiment.data, experiment.key
    batch = next_batch(spec, data, key, state.clients.number, state.clients.batches_seen)
    exchange_key = fold(key, Purpose.EXCHANGE, 0, 0)
    _, record = run(state)
    for position, number in enumerate(np.asarray(state.clients.number)):
        client = jax.tree.map(lambda x, n=position: x[n], state.clients)
        inputs, lengths = batch.inputs[position], batch.lengths[position]
        activation = forward_one(
            spec, spec.pruner.forwards[position], client, inputs, exchange_key
        )[0]
        _, message, _ = jax.jit(partial(send_activation, spec))(
            client, activation, fold(exchange_key, number), lengths
        )
        beside = [
            packing.labels_field(np.asarray(batch.labels[position]), spec.classes),
            packing.labels_field(np.asarray(lengths), POSITIONS + 1),
        ]
        assert len(packing.pack([message], beside)) == record.sent["smashed_up"][0, position]
        gradient = kept_only(jnp.ones(activation.shape), message.kept)
        answer = spec.compressors["cut_gradient"](number).send(
            client.compressor_states["cut_gradient"],
            fold(exchange_key, number, Stage.CUT_GRADIENT),
            gradient,
        )[1]
        assert len(packing.pack([answer])) == record.sent["cut_gradient_down"][0, position]
        kept = spec.pruner.kept(client.masks).params
        model = jax.tree.map(kept_only, client.params, kept)
        messages = jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, Message))
        assert len(packing.pack(messages)) == record.sent["model_up"][position]
