"""Runs of other tasks than classification: regression, a user's own loss and metric, token ids."""

import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_close, assert_equal, plain, setup, slow

from jfedsl.data.datasets import DATASETS, from_arrays
from jfedsl.engine.batch import next_batch
from jfedsl.engine.state import weights
from jfedsl.models import layers
from jfedsl.models.layers import from_linen
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run
from jfedsl.run.training import train, train_setting

pytestmark = pytest.mark.usefixtures("tables")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6))
Y = X @ RNG.normal(size=(6, 2))
RATES = {"client_learning_rate": 0.02, "server_learning_rate": 0.02}
ERROR = "test_mean_absolute_error"


@pytest.fixture
def plane() -> None:
    DATASETS["plane"] = lambda _: from_arrays(
        (X[:200], Y[:200]), (X[200:], Y[200:]), targets="numbers"
    )


@pytest.mark.usefixtures("plane")
def test_regression_trains_resumes_and_answers(tmp_path: Path) -> None:
    config = plain(dataset="plane", rounds=4, eval_every=2, local_steps=8, **RATES)
    config = dataclasses.replace(config, target_accuracy=1.0, workdir=str(tmp_path / "run"))
    summary = train(config)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert f"{ERROR}_deployed" in rows[0] and "test_accuracy" not in rows[0]
    final = summary["final_mean_absolute_error"]
    assert final == float(rows[-1][ERROR]) < 0.6
    assert summary["best_mean_absolute_error"] == min(float(r[ERROR]) for r in rows if r[ERROR])
    assert summary["rounds_to_target"] == 2, "lower is better"
    assert not (tmp_path / "run" / "labels.png").exists()
    assert train(config) == summary, "the run is finished"
    shorter = dataclasses.replace(config, rounds=2, workdir=str(tmp_path / "resumed"))
    train(shorter)
    train(dataclasses.replace(shorter, rounds=4))
    assert_equal(restore_run(tmp_path / "resumed").state, restore_run(tmp_path / "run").state)
    result = evaluate_run(tmp_path / "run", tmp_path / "export")
    assert "clients" not in result and f"test mean absolute error    {final:.4f}" in table(result)
    for folder in ("run", "export"):
        answers = load(tmp_path / folder).predict(X[200:])
        assert np.abs(answers - Y[200:]).mean() == pytest.approx(final, rel=1e-4)


@pytest.mark.usefixtures("plane")
def test_an_exchange_of_regression_is_that_of_a_plain_loop() -> None:
    experiment, state, run = setup(dataset="plane", aggregate_every=2)
    spec, data, cut = experiment.spec, experiment.data, experiment.spec.cut
    ids = jnp.arange(4)
    batch = next_batch(spec, data, experiment.key, ids, jnp.zeros(4, jnp.int32))
    share = weights(spec, data.partition, ids)
    first = jax.tree.map(lambda w: w[0], state.clients.params)

    def loss(client: object, server: object, n: int) -> jax.Array:
        whole = (*client, *server)  # type: ignore[misc]
        stats = (*jax.tree.map(lambda s: s[0], state.clients.stats), *state.server.stats)
        outputs, _ = layers.apply(spec.model, whole, stats, batch.inputs[n], True)
        return jnp.mean((outputs - batch.labels[n]) ** 2)

    pairs = [jax.value_and_grad(loss, (0, 1))(first, state.server.params, n) for n in range(4)]
    expected = jnp.array([value for value, _ in pairs])
    clients = [jax.tree.map(lambda w, g: w - 0.05 * g, first, g[0]) for _, g in pairs]
    server = state.server.params
    for weight, (_, gradient) in zip(share, pairs, strict=True):
        server = jax.tree.map(lambda w, g, s=weight: w - 0.05 * s * g, server, gradient[1])
    after, record = run(state)
    assert cut > 0 and batch.labels.shape == (4, 8, 2)
    assert_close(record.losses[0], expected)
    assert_close(after.server.params, server)
    assert_close(after.clients.params, jax.tree.map(lambda *w: jnp.stack(w), *clients))


PLUGIN = """
import jax.numpy as jnp
from jfedsl import LOSSES, METRICS
from jfedsl.engine.task import Metric

LOSSES["absolute"] = lambda outputs, targets: jnp.mean(jnp.abs(outputs - targets), axis=-1)
METRICS["near"] = Metric(
    "near", lambda y, targets: jnp.all(jnp.abs(y - targets) < 1, axis=-1).astype(jnp.float32)
)
"""


@pytest.mark.usefixtures("plane")
def test_a_loss_and_a_metric_of_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    named = {"plugin": str(tmp_path / "mine.py"), "loss": "absolute", "metric": "near"}
    config = plain(dataset="plane", rounds=2, eval_every=1, local_steps=8, **RATES, **named)
    summary = train(dataclasses.replace(config, workdir=str(tmp_path / "run"), target_accuracy=0.1))
    near = load(tmp_path / "run").predict(X[200:]) - Y[200:]
    assert summary["final_near"] == pytest.approx((np.abs(near) < 1).all(1).mean(), abs=1e-6)
    assert 0 < summary["final_near"] <= summary["best_near"] <= 1


@pytest.mark.parametrize("algorithm", ["fedsl", slow("centralized")])
def test_token_ids_stay_whole_numbers(algorithm: str, tmp_path: Path) -> None:
    ids = RNG.integers(0, 50, (300, 5))
    ids[:2, 0] = 300, 301  # bfloat16 has no such numbers
    labels = ids[:, 0] % 3

    class Embed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            assert x.dtype == jnp.int32
            return nn.Embed(302, 8)(x).reshape(len(x), -1)

    DATASETS["ids"] = lambda _: from_arrays(
        (ids[:240], labels[:240]), (ids[240:], labels[240:]), normalise=False
    )
    MODELS["embed"] = ModelEntry(
        lambda classes, norm: (
            from_linen("embed", Embed()),
            from_linen("logits", nn.Dense(classes)),
        ),
        default_cut="embed",
    )
    changes = {"client_learning_rate": 0.2, "server_learning_rate": 0.2, "local_steps": 10}
    config = plain(algorithm=algorithm, dataset="ids", model="embed", rounds=6, **changes)
    summary = train_setting(dataclasses.replace(config, workdir=str(tmp_path / "run")))
    trained = load(tmp_path / "run")
    assert (trained.predict(ids[240:]) == labels[240:]).mean() == pytest.approx(
        summary["final_accuracy"], abs=1e-6
    )
    assert summary["final_accuracy"] > 0.5
