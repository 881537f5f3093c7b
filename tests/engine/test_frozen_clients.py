"""Clients without trained parameters: they send activations, and nothing comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adapters
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, plain, slow

import jfedsl
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.planner.expected import expected_exchange
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.clock import costs_of
from jfedsl.run.hooks import Hook
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run
from jfedsl.run.training import train
from jfedsl.wireless.radio import FlopCounts

WIDTHS, FROZEN = (48, 40, 56), 2
ROUNDS = 2
ANSWERS = ("cut_gradient_down", "shared_gradient_down")


@pytest.fixture(autouse=True)
def registered(tables: None) -> Iterator[None]:
    """A model whose layers up to the cut have frozen kernels alone."""
    model = adapters.held(WIDTHS, FROZEN)
    MODELS["held"] = ModelEntry(lambda classes, norm: model, "held2")
    yield


def run(**changes: Any) -> tuple[Experiment, Any, Any]:
    """The first rounds of a run, `[ROUNDS, ...]` of its record."""
    e = build(plain(model="held", **changes))
    state, record = e.rounds(ROUNDS)(e.data, e.key, e.init(), ROUNDS)
    return e, state, record


def counts_of(e: Experiment) -> FlopCounts:
    assert e.spec.radio is not None
    return e.spec.radio.flop_counts


def uncompressed(e: Experiment) -> dict[str, int]:
    client = e.fresh()
    return uncompressed_bytes(e.spec, client.params, client.stats, e.image.shape, ROUNDS)


def test_nothing_comes_down_and_clients_compute_no_backward_pass() -> None:
    e, state, record = run(network="macro_cell", cut_gradient_bits=8, prune_kind="mask")
    sent = {column: int(counts.sum()) for column, counts in record.sent.items()}
    assert sent == uncompressed(e)
    assert sent.pop("smashed_up") > 0 and not any(sent.values())
    cost, counts = costs_of(e)(e.data, record), counts_of(e)
    assert cost is not None
    assert not counts.backward.any() and not cost.downlink.any()
    # Both products of the clients in a forward pass; that of the server's first one has one
    # gradient, by its kernel.
    layers = [2 * 8 * a * b for a, b in zip((64, *WIDTHS), (*WIDTHS, 10), strict=True)]
    products = sum(layers[:FROZEN])
    assert products <= counts.forward.sum() <= 1.1 * products
    of_server = 2 * layers[FROZEN] + 3 * layers[-1]
    assert of_server <= counts.server <= 1.1 * of_server
    np.testing.assert_allclose(cost.compute, record.conditions.forward)
    assert "nothing is pruned" in " ".join(e.notes)
    assert differs(state.server.params, e.init().server.params)


def test_the_server_learns_as_if_activations_were_its_data() -> None:
    """One client, all of whose examples are in every batch: gradient descent on the server."""
    e, state, record = run(clients=1, train_examples=24, batch_size=24)
    images = e.data.pixels.prepare(e.data.images)
    frozen = e.initial.frozen
    x = jnp.reshape(images, (24, -1))
    for held in frozen[1 : 1 + FROZEN]:
        x = jax.nn.relu(x @ held["kernel"])

    def loss(params: Any) -> jax.Array:
        logits = jax.nn.relu(x @ params[0]["kernel"]) @ params[1]["kernel"]
        return jnp.mean(e.spec.task.loss(logits, e.data.labels))

    params: Any = e.initial.params[e.spec.cut :]
    for number in range(ROUNDS):
        value, gradient = jax.value_and_grad(loss)(params)
        np.testing.assert_allclose(record.train_loss[number], value, rtol=1e-5)
        params = jax.tree.map(lambda w, g: w - plain().server_learning_rate * g, params, gradient)
    assert_close(state.server.params, params, rtol=1e-4, atol=1e-6)


SHARED: dict[str, Any] = {"optimizer": "adam", "client_optimizer_state": "average"}
CASES = [
    ("broadcast", {"broadcast_share": 0.5}),
    slow("fedsl", {**SHARED, "aggregate_every": 2}),
    slow("fedsl", {"model_up": "uniform(4)", "model_down": "uniform(4)", "participants": 2}),
    slow("fedsl", {"cut_gradient": "feedback(topk(0.1))", "client_state": "stateless"}),
    slow("fedsl", {"remat_clients": True, "compute_dtype": "bfloat16"}),
    slow("fedsl", {"client_backward": "int8", "client_chunk": 1}),
    slow("fedsl", {"network": "macro_cell", "outage_snr_db": 5.0, "allocation": "minmax"}),
    slow("sfl_v1", SHARED),
    slow("sfl_v2", {"local_steps": 2, "network": "macro_cell"}),
    slow("sl", {"network": "macro_cell"}),
]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("algorithm", "changes"), CASES)
def test_no_message_but_activations(algorithm: str, changes: dict[str, Any]) -> None:
    e, state, record = run(algorithm=algorithm, **changes)
    sent = {column: int(counts.sum()) for column, counts in record.sent.items()}
    dense = uncompressed(e)
    assert 0 < sent.pop("smashed_up") <= dense.pop("smashed_up")
    assert not any(sent.values()) and not any(dense.values()) and set(ANSWERS) & set(sent)
    assert np.isfinite(record.train_loss).all() and not jax.tree.leaves(state.clients.params)
    assert np.isfinite(e.evaluate()(e.data, state, e.test).loss)
    cost = costs_of(e)(e.data, record)
    assert cost is None or not cost.downlink.any()


@pytest.mark.slow
def test_a_head_of_the_clients_is_all_that_they_train_and_send() -> None:
    e, _, record = run(algorithm="local_loss", network="macro_cell")
    head = 4 * (WIDTHS[1] * 10 + 10)
    assert (record.sent["model_up"] == head).all() and uncompressed(e)["model_up"] == 8 * head
    counts = counts_of(e)
    assert not counts.backward[:, : e.spec.cut].any() and counts.backward[:, -1].all()


def test_channels_are_not_removed_and_the_planner_expects_no_answer() -> None:
    with pytest.raises(UserError, match="held1 has frozen variables"):
        build(plain(model="held", prune_kind="channel"))
    e = build(plain(model="held", cut_gradient_bits=4))
    expected = expected_exchange(e.spec, e.key, e.image.shape)
    assert expected.up.all() and not expected.down.any() and not expected.error.any()


@pytest.mark.slow
def test_constants_of_the_bound_are_known_where_clients_have_no_weights() -> None:
    e = build(plain(model="held", dropout_rate=0.2))
    draws = e.measure(0.1)(e.data, e.key, e.init()).draws
    assert not draws.moment.value[: e.spec.cut].any() and draws.moment.value[-1] > 0
    for name in ("rho", "phi", "chi", "q"):
        assert tuple(map(float, getattr(draws, name))) == (0, 0)
    assert draws.eps_d.value < np.inf


class Interrupt(Hook):
    """Ends a run as a kill would once the rows of its third round are written."""

    def on_rows(self, rows: Any) -> None:
        """Of the rounds so far."""
        if rows[-1]["round"] >= 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_resumes_exactly_and_its_export_answers_as_it_does(tmp_path: Path) -> None:
    def config(name: str) -> Any:
        settings = {"momentum": 0.9, "participants": 2, "client_state": "host", "rounds": 5}
        settings |= {"train_examples": 200, "checkpoint_every": 2, "eval_every": 2}
        return plain(model="held", workdir=str(tmp_path / name), **settings)

    train(config("whole"))
    with pytest.raises(KeyboardInterrupt):
        train(config("parts"), [Interrupt()])
    train(config("parts"))
    assert_equal(*(restore_run(tmp_path / name).state for name in ("whole", "parts")))
    jfedsl.evaluate(tmp_path / "parts", tmp_path / "export")
    images = np.random.default_rng(0).integers(0, 16, (5, 8, 8, 1)).astype(np.uint8)
    of_run, of_export = load(tmp_path / "parts"), load(tmp_path / "export")
    np.testing.assert_array_equal(of_run.logits(images), of_export.logits(images))
