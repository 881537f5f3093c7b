"""Heads that are fitted to the server's gradients, now and then."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, exchange_of, setup, slow

from jfedsl.config import Config
from jfedsl.config.canonical import canonical, effective, refuse_idle
from jfedsl.engine.auxiliary import auxiliary_losses, fit_auxiliary
from jfedsl.engine.batch import draw_batch
from jfedsl.engine.client_step import client_forward
from jfedsl.engine.exchange import Availability
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.engine.transmit import send_down, send_up
from jfedsl.errors import UserError
from jfedsl.models import layers
from jfedsl.run.rows import Totals, rows_of
from jfedsl.wireless.radio import Conditions

CLIENTS, BATCH, ENTRIES, CLASSES = 4, 8, 256, 10
SMASHED, LABELS = BATCH * ENTRIES, BATCH * 4 // 8  # entries at the cut, bytes of the labels
RATE, STEPS = 0.05, 6


class Head(NamedTuple):
    """A linear head of one client, float64."""

    kernel: Any
    bias: Any


def error_and_gradient(
    head: Head, smashed: Any, labels: Any, target: Any, kept: Any
) -> tuple[float, Head]:
    """The relative error of the gradient of the head's softmax loss, and its own gradient."""
    scores = smashed @ head.kernel + head.bias
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    residuals = shares - np.eye(CLASSES)[labels]
    gradient = np.where(kept, residuals @ head.kernel.T / len(labels), 0)
    difference, size = gradient - target, np.sum(gradient**2) + np.sum(target**2)
    outer = 2 / (size * len(labels)) * np.where(kept, difference, 0)
    by_shares = outer @ head.kernel
    by_scores = shares * (by_shares - np.sum(shares * by_shares, axis=1, keepdims=True))
    by_kernel = smashed.T @ by_scores + outer.T @ residuals
    return float(np.sum(difference**2) / size), Head(by_kernel, by_scores.sum(axis=0))


def test_a_fit_descends_on_the_difference_of_gradients() -> None:
    """Against the derivatives of a linear head by hand, in float64; momentum starts from 0."""
    e, state, _ = setup(
        algorithm="sage", align_steps=STEPS, momentum=0.9, client_learning_rate=RATE
    )
    draw = np.random.default_rng(0)
    shape = (CLIENTS, BATCH, ENTRIES)
    smashed, kept = draw.normal(size=shape).clip(0), draw.random(shape) < 0.8
    labels = draw.integers(0, CLASSES, shape[:2])
    target = np.where(kept, 0.02 * draw.normal(size=shape), 0)
    used = jax.tree.map(lambda leaf: leaf + 1, state.clients.optimizer)
    clients = state.clients.replace(optimizer=used)
    fit = jax.jit(functools.partial(fit_auxiliary, exchange_of(e, state), clients))
    single = smashed.astype(np.float32), labels.astype(np.int32), target.astype(np.float32)
    after, errors = fit(*single, kept)
    assert errors.shape == (CLIENTS, STEPS + 1) and (np.diff(errors, axis=1) < 0).all()
    assert_equal(after.params[:2], clients.params[:2])
    assert_equal(after.optimizer, used)
    for n in range(CLIENTS):
        start = clients.params[-1]
        head = Head(*(np.asarray(start[name][n], np.float64) for name in ("kernel", "bias")))
        velocity = Head(0.0, 0.0)
        for step in range(STEPS):
            error, slope = error_and_gradient(head, smashed[n], labels[n], target[n], kept[n])
            np.testing.assert_allclose(errors[n, step], error, rtol=1e-4)
            velocity = Head(*(0.9 * v + g for v, g in zip(velocity, slope, strict=True)))
            head = Head(*(w - RATE * v for w, v in zip(head, velocity, strict=True)))
        last, _ = error_and_gradient(head, smashed[n], labels[n], target[n], kept[n])
        np.testing.assert_allclose(errors[n, -1], last, rtol=1e-4)
        fitted = after.params[-1]
        assert_close(Head(fitted["kernel"][n], fitted["bias"][n]), head, rtol=1e-4, atol=1e-5)


def test_without_fits_it_is_local_loss() -> None:
    same = {"upload_every": 2, "local_steps": 3, "momentum": 0.9, "smashed": "dropout(0.2)"}
    _, state, run = setup(algorithm="sage", align_every=0, **same)
    _, other, alone = setup(algorithm="local_loss", **same)
    for _ in range(2):
        (state, record), (other, expected) = run(state), alone(other)
    assert_equal(state.clients.params, other.clients.params)
    assert_equal(state.server, other.server)
    assert not record.sent.pop("cut_gradient_down").any()
    assert_equal(record.sent, expected.sent)
    assert_equal(record.losses, expected.losses)


def test_heads_are_fitted_to_what_came_back_of_the_servers_gradients() -> None:
    """Each to the gradient of its own loss, by the server before its step, where that was sent."""
    e, state, _ = setup(
        algorithm="sage", partition="quantity", aggregation="examples", smashed="dropout(0.3)",
        cut_gradient="topk(0.1)", align_steps=2,
    )  # fmt: skip
    x, spec, server = exchange_of(e, state), e.spec, state.server
    outcome = jax.jit(lambda s: spec.algorithm.exchange(x, s.server, s.clients))(state)
    clients, batch = draw_batch(x, state.clients)
    clients, smashed, _ = client_forward(x, clients, batch.inputs)
    clients, up = send_up(x, clients, smashed, batch.lengths)

    def loss(arrived: Any, labels: Any) -> Any:
        rest = spec.model[spec.cut :]
        outputs, _ = layers.apply(rest, server.params, server.stats, arrived, True)
        return spec.task.mean_loss(outputs, labels)

    gradients = jax.vmap(jax.grad(loss))(up.values, batch.labels)
    clients, down = send_down(x, clients, gradients, up.kept)
    assert_close(down.values, np.where(down.kept, gradients, 0))
    assert 0 < np.mean(down.kept) < 0.11
    fitted, errors = fit_auxiliary(x, clients, up.values, batch.labels, down.values, down.kept)
    reported = outcome.reported["fit_error"]
    assert_close(reported.values, errors[:, -1])
    assert reported.valid.all()
    _, slope, _ = auxiliary_losses(x, fitted, smashed, batch.labels)
    heads = jax.tree.map(lambda w, g: w - 0.05 * g, fitted.params[-1], slope[-1])
    assert differs(fitted.params[-1], state.clients.params[-1])
    assert_close(outcome.clients.params[-1], heads)


def test_bytes_are_those_counted_by_hand() -> None:
    e, state, run = setup(
        algorithm="sage", upload_every=3, local_steps=4, aggregate_every=2, align_every=2,
        cut_gradient="uniform(8,bucket=512)",
    )  # fmt: skip
    client = e.fresh()
    # Periods 0 and 2 start with exchanges 0 and 16; the first upload from there on is 18.
    answered, coded = (0, 18), SMASHED + 8 * SMASHED // 512
    for number in range(5):
        state, record = run(state)
        steps = np.arange(4 * number, 4 * number + 4)
        up = np.where(steps % 3 == 0, 4 * SMASHED + LABELS, 0)
        assert_equal(record.sent["smashed_up"], np.repeat(up[:, None], CLIENTS, axis=1))
        down = np.where(np.isin(steps, answered), coded, 0)
        assert_equal(record.sent["cut_gradient_down"], np.repeat(down[:, None], CLIENTS, axis=1))
        fits = record.reported["fit_error"]
        assert_equal(fits.valid, np.repeat(np.isin(steps, answered)[:, None], CLIENTS, axis=1))
        of_one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], record)
        (row,), _ = rows_of(e.spec, of_one, None, range(number, number + 1), Totals())
        expected = pytest.approx(np.mean(fits.values[fits.valid])) if down.any() else None
        assert row["fit_error"] == expected
        model = 64 * 256 + 256 + ENTRIES * CLASSES + CLASSES
        assert (record.sent["model_up"] == (4 * model if number % 2 else 0)).all()
        arguments = e.spec, client.params, client.stats, e.image.shape
        plain = uncompressed_bytes(*arguments, number + 1)
        messages = sum(step < 4 * (number + 1) for step in answered)
        assert plain["cut_gradient_down"] == messages * CLIENTS * 4 * SMASHED


def test_a_client_without_the_answer_does_not_fit() -> None:
    away = 2
    e, state, _ = setup(
        algorithm="sage", upload_every=2, network="macro_cell", outage_snr_db=0.0,
        local_steps=2, cut_gradient="feedback(topk(0.3))",
    )  # fmt: skip
    some = jnp.ones(CLIENTS)

    @jax.jit
    def exchange(step: Any, reachable: Any) -> Any:
        now = Conditions(some, some, some, some, reachable, some, some)
        here = Availability(jnp.ones(CLIENTS, bool), now)
        x = exchange_of(e, state)._replace(step=step, availability=here)
        return e.spec.algorithm.exchange(x, state.server, state.clients)

    present = jnp.arange(CLIENTS) != away
    fitted, alone = (exchange(jnp.int32(step), present) for step in (0, 1))
    for n in range(CLIENTS):
        of_one = lambda outcome, n=n: jax.tree.map(lambda leaf: leaf[n], outcome.clients)  # noqa: E731
        both = of_one(fitted), of_one(alone)
        received = int(fitted.sent["cut_gradient_down"][n])
        if n == away:
            assert_equal(both[0].params, both[1].params)
            assert_equal(*(c.compressor_states["cut_gradient"] for c in both))
            assert received == 0 < fitted.sent["smashed_up"][n]
        else:
            assert differs(both[0].params[-1], both[1].params[-1]) and received > 0
        assert fitted.reported["fit_error"].valid[n] == (n != away)
    assert fitted.took_part.all(), "it trains on the loss of its own head"
    assert not alone.sent["cut_gradient_down"].any()
    assert not alone.reported["fit_error"].valid.any()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"align_every": -1}, "--align_every must be a whole number from 0 to 1000000, not -1"),
        ({"align_steps": 0}, "--align_steps must be a whole number from 1 to 10000, not 0"),
        ({"upload_every": 0}, "--upload_every must be a whole number"),
        ({"deadline_s": 1.0}, "--deadline_s=1.0 has no effect with --algorithm=sage; remove it"),
    ],
)
def test_wrong_flags_are_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Config(algorithm="sage", **changes)


def test_every_period_with_a_fit_has_an_upload() -> None:
    rare = {"algorithm": "sage", "upload_every": 7, "local_steps": 3, "aggregate_every": 2}
    line = "--upload_every must be at most 6, the exchanges of a period, with --align_every=1, not"
    with pytest.raises(UserError, match=line):
        setup(**rare)
    setup(align_every=0, **rare)


@pytest.mark.parametrize(
    "changes",
    [
        {"cut_gradient": "uniform(8)"},
        {"cut_gradient_bits": "8"},
        {"align_steps": 3},
    ],
    ids=str,
)
def test_what_only_fits_use_has_no_effect_without_them(changes: dict[str, Any]) -> None:
    (flag, value), *_ = changes.items()
    without, fits = (Config(algorithm="sage", align_every=n, **changes) for n in (0, 1))
    line = re.escape(f"--{flag}={value} has no effect with --align_every=0; remove it")
    with pytest.raises(UserError, match=line):
        refuse_idle([without])
    refuse_idle([without, fits])
    plain = Config(algorithm="sage", align_every=0)
    assert canonical(without) == canonical(plain) and canonical(fits) != canonical(plain)
    assert effective(without) == effective(plain)


@pytest.mark.usefixtures("standard_promotion")  # optax.adam needs it
@pytest.mark.parametrize(
    "changes",
    [
        slow({"model": "cnn", "aux": "conv", "norm": "batch", "prune_kind": "channel"}),
        slow({"aux": "mlp(16)", "optimizer": "adam", "prune_kind": "mask", "dropout_rate": 0.2}),
    ],
)
def test_fits_suit_heads_and_pruned_clients(changes: dict[str, Any]) -> None:
    _, state, run = setup(algorithm="sage", local_steps=2, cut_gradient="qsgd(8)", **changes)
    losses = []
    for _ in range(4):
        state, record = run(state)
        losses.append(float(record.train_loss))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
