"""Prediction of the next token: its loss, perplexity, bytes, data and files."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import next_tokens
import numpy as np
import pytest
import sequences
import tokenizers_made
from helpers import assert_close, assert_equal, plain, setup, slow
from models.transformers import reference
from next_tokens import bytes_of, cross_entropies
from sequences import LONG, SHORT, assert_padding_changes_nothing

from jfedsl.config import Config
from jfedsl.data.datasets import DATASETS, from_arrays, from_texts
from jfedsl.engine.batch import next_batch
from jfedsl.engine.state import weights
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.models import layers
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.run.assemble import build
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run
from jfedsl.run.training import train

ID_BITS = 5  # of one of 20 ids
DATA = next_tokens.dataset(SHORT)


@pytest.fixture(autouse=True)
def registered(tables: None) -> Iterator[None]:
    """The model and the data set, its sequences of both shapes."""
    MODELS["causal"] = next_tokens.ENTRY
    for positions in (SHORT, LONG):
        DATASETS[f"ids{positions}"] = lambda _, n=positions: next_tokens.dataset(n)
    yield


def settings(positions: int = SHORT, **changes: Any) -> dict[str, Any]:
    return {"model": "causal", "dataset": f"ids{positions}", "task": "next_token", **changes}


@pytest.mark.parametrize(
    "changes",
    [
        slow({"smashed": "topk(0.5)"}),
        slow({"algorithm": "sfl_v1", "client_chunk": 1}),
        slow({"algorithm": "sfl_v2", "server_order": "exchange"}),
        slow({"algorithm": "sl"}),
        slow({"algorithm": "broadcast"}),
        slow({"algorithm": "local_loss"}),
        slow({"algorithm": "u_shape", "cut": "1", "tail_input": "topk(0.5)"}),
        slow({"algorithm": "local_loss", "aux": "mlp(4)"}),
        slow({"algorithm": "fedavg"}),
        slow({"algorithm": "centralized"}),
    ],
)
def test_more_padding_changes_no_number(changes: dict[str, Any]) -> None:
    both = (settings(positions, **changes) for positions in (SHORT, LONG))
    record, tested = assert_padding_changes_nothing(*both)
    assert np.isfinite(tested.loss) and (record.losses > 0).all()


def test_an_exchange_takes_the_mean_over_the_tokens_of_a_mini_batch() -> None:
    experiment, state, run = setup(**settings(LONG, aggregate_every=2))
    spec, data = experiment.spec, experiment.data
    assert spec.classes == next_tokens.IDS and data.labels.shape == (sequences.TRAIN, LONG)
    numbers = jnp.arange(4)
    batch = next_batch(spec, data, experiment.key, numbers, jnp.zeros(4, jnp.int32))
    share, first = (
        weights(spec, data.partition, numbers),
        jax.tree.map(lambda w: w[0], state.clients.params),
    )
    assert (np.asarray(batch.labels[..., :-1]) == np.asarray(batch.inputs[..., 1:])).all()

    def total(client: Any, server: Any, n: int) -> tuple[jax.Array, jax.Array]:
        stats = ({},) * len(spec.model)
        outputs, _ = layers.apply(spec.model, (*client, *server), stats, batch.inputs[n], True)
        following = jax.nn.one_hot(batch.inputs[n][:, 1:], next_tokens.IDS)  # 0 of padding
        losses = -jnp.sum(following * jax.nn.log_softmax(outputs[:, :-1]))
        return losses / jnp.sum(following), outputs

    value = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), static_argnums=2)
    pairs = [value(first, state.server.params, n) for n in range(4)]
    for n, ((loss, outputs), _) in enumerate(pairs):
        sums, counts = cross_entropies(outputs, np.asarray(batch.inputs[n]))
        np.testing.assert_allclose(loss, sums.sum() / counts.sum(), rtol=1e-5)
    clients = [jax.tree.map(lambda w, g: w - 0.05 * g, first, g[0]) for _, g in pairs]
    server = state.server.params
    for weight, (_, gradient) in zip(share, pairs, strict=True):
        server = jax.tree.map(lambda w, g, s=weight: w - 0.05 * s * g, server, gradient[1])
    after, record = run(state)
    assert_close(record.losses[0], jnp.stack([loss for (loss, _), _ in pairs]))
    assert_close(after.server.params, server)
    assert_close(after.clients.params, jax.tree.map(lambda *w: jnp.stack(w), *clients))
    positions = np.sum(np.asarray(batch.inputs) >= 0, axis=2)  # [K, B]
    beside = ID_BITS * np.maximum(positions - 1, 0).sum(axis=1) + 3 * spec.batch_size
    entries = 4 * next_tokens.WIDTH * positions.sum(axis=1)
    np.testing.assert_array_equal(record.sent["smashed_up"][0], entries + -(-beside // 8))
    client = experiment.fresh()
    dense = uncompressed_bytes(spec, client.params, client.stats, (LONG,), 1)
    full = spec.batch_size * (ID_BITS * (LONG - 1) + 3)
    values = 4 * spec.batch_size * LONG * next_tokens.WIDTH
    assert dense["smashed_up"] == 4 * (values + -(-full // 8))


def by_hand(experiment: Any, state: Any) -> tuple[float, float, float]:
    """Test loss, perplexity and bits per byte of a run after an average, in float64."""
    params = state.aggregator.params + state.server.params
    ids = DATA.test.images
    stats = ({},) * len(params)
    logits, _ = layers.apply(experiment.spec.model, params, stats, jnp.asarray(ids), False)
    sums, counts = cross_entropies(logits, ids)
    loss = sums.sum() / counts.sum()
    return loss, np.exp(loss), sums.sum() / np.log(2) / bytes_of(ids).sum()


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte"])
def test_the_test_is_a_mean_over_tokens_or_bytes(metric: str) -> None:
    experiment, state, run = setup(**settings(metric=metric, eval_batch_size=7))
    state, _ = run(state)
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    loss, perplexity, bits = by_hand(experiment, state)
    expected = perplexity if metric == "perplexity" else bits
    np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(result.metric, expected, rtol=1e-5)
    assert result.metric == result.metric_dense == result.metric_deployed


def test_clients_come_from_the_labels_and_owners_of_the_data() -> None:
    experiment = build(plain(**settings(clients=None, partition="natural")))
    assert experiment.clients == 5 and experiment.label_counts is not None
    np.testing.assert_array_equal(
        experiment.label_counts.sum(axis=0), np.bincount(DATA.train.labels, minlength=3)
    )
    held = build(plain(**settings(partition="dirichlet", validation_fraction=0.2)))
    assert held.validation is not None and held.validation.byte_counts is not None
    valid = np.asarray(held.validation.valid)
    ids = np.asarray(held.validation.images)[valid]
    np.testing.assert_array_equal(np.asarray(held.validation.labels)[valid][:, :-1], ids[:, 1:])
    np.testing.assert_array_equal(np.asarray(held.validation.byte_counts)[valid], bytes_of(ids))


def test_the_objective_weighs_the_tokens_of_a_client_equally() -> None:
    e = build(plain(**settings(clients=3, partition="quantity", aggregation="examples")))
    measured = e.objective()(e.data, e.key, e.init()).loss.value
    ids, part, model = np.asarray(e.data.images), e.data.partition, e.spec.model
    logits, _ = layers.apply(model, e.initial.params, e.initial.stats, e.data.images, False)
    sums, counts = cross_entropies(logits, ids)
    expected = 0.0
    for start, size in zip(np.asarray(part.starts), np.asarray(part.sizes), strict=True):
        of_client = slice(start, start + size)
        expected += size / len(ids) * sums[of_client].sum() / counts[of_client].sum()
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_a_run_logs_resumes_and_answers(tmp_path: Path) -> None:
    changes = {"rounds": 4, "eval_every": 2, "local_steps": 8, "target_accuracy": 20.0}
    rates = {"client_learning_rate": 0.2, "server_learning_rate": 0.2}
    config = plain(**settings(workdir=str(tmp_path / "run"), **changes, **rates))
    summary = train(config)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    columns = [name for name in rows[0] if name.startswith("test_")]
    metrics = [f"test_perplexity{end}" for end in ("", "_dense", "_deployed")]
    assert columns == ["test_loss", *metrics]
    last = rows[-1]
    assert float(last["test_perplexity"]) == pytest.approx(np.exp(float(last["test_loss"])))
    values = [float(row["test_perplexity"]) for row in rows if row["test_perplexity"]]
    assert summary["best_perplexity"] == min(values) < next_tokens.IDS
    assert summary["rounds_to_target"] in (2, 4), "lower is better"
    assert summary["task"] == {
        "metric": "perplexity", "higher_is_better": False, "of_classes": False, "of_tokens": True
    }  # fmt: skip
    assert (tmp_path / "run" / "labels.png").exists()
    assert not (tmp_path / "run" / "confusion.png").exists()
    assert train(config) == summary, "the run is finished"
    shorter = dataclasses.replace(config, rounds=2, workdir=str(tmp_path / "resumed"))
    train(shorter)
    train(dataclasses.replace(shorter, rounds=4))
    run = restore_run(tmp_path / "run")
    assert_equal(restore_run(tmp_path / "resumed").state, run.state)
    result = evaluate_run(tmp_path / "run", tmp_path / "export")
    _, perplexity, bits = by_hand(run.experiment, run.state)
    joined = result["joined"]
    assert joined["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert joined["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert "clients" not in result and f"  bits per byte             {bits:.4f}" in table(result)
    json.loads((tmp_path / "run" / "evaluation.json").read_text())
    following, ids = DATA.test.images[:, 1:], DATA.test.images
    for folder in ("run", "export"):
        right = load(tmp_path / folder).predict(ids)[:, :-1] == following
        accuracy = right[following >= 0].mean()
        assert joined["token_accuracy"] == pytest.approx(accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoders_give_logits_of_their_whole_vocabulary(kind: str) -> None:
    folder = str(reference.GOLDEN / kind)
    changes = {"pretrained": folder, "adapter": "lora(rank=2)", "model": Config.model}
    experiment, state, run = setup(**settings(norm=Config.norm, **changes))
    state, record = run(state)
    assert experiment.spec.classes == 30 > next_tokens.IDS and (record.losses > 0).all()
    result = experiment.evaluate()(experiment.data, state, experiment.test)
    model = layers.with_frozen(experiment.spec.model, experiment.data.frozen)
    params, ids = state.aggregator.params + state.server.params, DATA.test.images
    logits, _ = layers.apply(model, params, ({},) * len(params), jnp.asarray(ids), False)
    sums, counts = cross_entropies(logits, ids)
    np.testing.assert_allclose(result.metric, np.exp(sums.sum() / counts.sum()), rtol=1e-4)


@pytest.mark.slow
def test_a_text_of_bytes_has_as_many_tokens_as_bytes(tmp_path: Path) -> None:
    sizes = json.loads((reference.GOLDEN / "gpt2" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"vocab_size": 256}))
    (tmp_path / "tokenizer.json").write_text(tokenizers_made.bytewise())
    texts = [f"text {n}" + " more" * (n % 4) for n in range(40)]
    split = texts, [n % 2 for n in range(40)]
    DATASETS["texts"] = lambda _: from_texts(split, split)
    folder = {"pretrained": str(tmp_path), "data_dir": str(tmp_path), "tokens": 6}
    names = {"dataset": "texts", "metric": "bits_per_byte", "model": Config.model}
    experiment, state, run = setup(**settings(norm=Config.norm, **folder) | names)
    state, _ = run(state)
    tested = experiment.evaluate()(experiment.data, state, experiment.test)
    np.testing.assert_allclose(tested.metric, tested.loss / np.log(2), rtol=1e-5)
    counts = np.asarray(experiment.test.byte_counts)
    assert counts.sum() == sum(len(text) - len(range(0, len(text), 6)) for text in texts)


def _unpadded(ids: int, norm: str) -> layers.Model:
    embed, *rest = next_tokens.model(ids)
    return (embed._replace(lengths=None), *rest)


IMAGES = (np.ones((8, 2, 2, 1)), [0, 1] * 4)
GAP = (np.array([[1, -1, 2]] * 8), [0, 1] * 4)
SINGLE = (np.array([[1, -1, -1]] * 8), [0, 1] * 4)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"dataset": "images"},
            "--task must be one of classification, regression, not next_token",
        ),
        ({"dataset": "gap"}, "-1 only as padding at their ends"),
        ({"dataset": "single"}, "no training example has two tokens"),
        ({"metric": "accuracy"}, "--metric must be one that makes float32 .B. of outputs float32"),
        ({"loss": "squared_error"}, "--loss must be one that makes .* --task=next_token"),
        ({"metric": "bits_per_byte", "dataset": "no_bytes"}, "does not say how many bytes of text"),
        ({"model": "unpadded"}, "--model must be a model for padded sequences, not unpadded"),
        ({"model": "sequences"}, "outputs have the shape .B, 5, 20 or more. with --task=next"),
        ({"algorithm": "local_loss", "aux": "conv"}, "--aux must be linear or mlp"),
    ],
)
def test_what_does_not_suit_is_one_line(changes: dict[str, Any], message: str) -> None:
    MODELS["sequences"], MODELS["unpadded"] = sequences.ENTRY, ModelEntry(_unpadded, "mixed")
    for name, split in (("gap", GAP), ("single", SINGLE)):
        DATASETS[name] = partial(lambda _, s: from_arrays(s, s, normalise=False), s=split)
    DATASETS["images"] = lambda _: from_arrays(IMAGES, IMAGES)
    DATASETS["no_bytes"] = lambda _: next_tokens.dataset(SHORT, byte_counts=False)
    with pytest.raises(UserError, match=message) as error:
        build(plain(**settings(clients=2, **changes)))
    assert "\n" not in str(error.value)
