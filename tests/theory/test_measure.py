"""Measurements of small runs, against sums over all of their examples in float64.

The expectations are exact: gradients of every single example, with zeros for pruned weights, under
every mask that dropout may draw. Estimates have to be within five of their standard errors.
"""

import itertools
from functools import cache, cached_property, partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, setup, slow
from jax.flatten_util import ravel_pytree
from pruning import masked

from jfedsl.data.partition import pack
from jfedsl.engine.averaging import joined
from jfedsl.engine.masks import masks_of
from jfedsl.models import blocks, layers
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.pruning.plan import trace
from jfedsl.pruning.pruner import dense_forward
from jfedsl.theory.measure import Effort, after_exchange, measure, measure_objective
from jfedsl.theory.objective import all_examples, block_loss, over_blocks, some_examples

STEP, BUCKET, NOTHING = 0.05, 16, 1e-10
UNITS = 6  # of the activation at the cut of the model "tiny"

TEST_MODELS = {
    "tiny": ModelEntry(lambda classes, norm: mlp(classes, norm, (UNITS, 5)), "dense1"),
    "conv": ModelEntry(
        lambda classes, norm: (
            blocks.convolution("conv", 8, norm), blocks.pool("pool"), *mlp(classes, norm, ()),
        ),
        "pool",
    ),
}  # fmt: skip


def flat(tree: Any) -> np.ndarray:
    """All entries of a tree."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)


class Case:
    """An experiment, its compiled measurement, and exact values of what is measured."""

    # The masked forward with channels; rates of dropout and bits of gradients by client.
    forward, rates, bits = None, (0.0,) * 4, (32,) * 4

    def __init__(self, effort: Effort, **changes: Any) -> None:
        changes = {"model": "tiny", "train_examples": 120, "aggregate_every": 2, **changes}
        with pytest.MonkeyPatch.context() as patch:
            for name, entry in TEST_MODELS.items():
                patch.setitem(MODELS, name, entry)
            self.experiment, self.start, self.round = setup(**changes)
        e = self.experiment
        self.spec, self.data, self.key, (params, self.stats, _) = e.spec, e.data, e.key, e.initial
        data, self.cut = self.data, self.spec.cut
        self.measured = jax.jit(partial(measure, self.spec, effort, STEP))
        self.unravel = ravel_pytree(params)[1]
        sizes = [sum(w.size for w in jax.tree.leaves(layer)) for layer in params]
        self.layer = np.repeat(np.arange(len(sizes)), sizes)
        mean, std = (np.asarray(x)[None, None, None] for x in data.pixels)
        images = jnp.asarray((np.asarray(data.images) - mean) / std)
        self.examples = images, data.labels
        self.owner = np.repeat(np.arange(self.spec.clients), data.partition.sizes)
        if changes.get("prune_kind") == "channel":
            self.forward = masked.masked_forward(
                trace(self.spec.model[: self.cut], jax.typeof(images[:1]))
            )
        of_examples = jax.vmap(jax.grad(self.loss), (None, 0, 0, None, None))
        # [examples, factors, size of the model]
        self.all_gradients = jax.jit(jax.vmap(of_examples, (None, None, None, None, 0), 1))
        losses = jax.vmap(self.loss, (None, 0, 0))
        self.mean_loss = jax.jit(lambda vector, p: p @ losses(vector, *self.examples))

    @cached_property
    def middle(self) -> Any:
        """A state within a period; with masks, all weights of clients are moved at random."""
        clients, keys = self.start.clients, iter(jax.random.split(jax.random.key(0), 9))
        if clients.masks is None:
            return self.round(self.start)[0]
        moved = jax.tree.map(
            lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape), clients.params
        )
        return self.start.replace(round=jnp.int32(1), clients=clients.replace(params=moved))

    def within(self, first: int) -> Any:
        """`middle` with the participants that begin with client `first`."""
        state, ids = self.middle, first + jnp.arange(self.spec.participants)
        masks = jax.vmap(partial(masks_of, self.spec, self.key, state))(ids)
        clients = state.clients.replace(number=ids, masks=masks)
        return state.replace(participants=ids, clients=clients)

    def measure(self, state: Any) -> Any:
        return jax.device_get(self.measured(self.data, self.key, state))

    def loss(self, vector: Any, image: Any, label: Any, masks: Any = None, factor: Any = 1.0):
        """The loss of one example, whose activation at the cut is scaled by `factor`."""
        params, stats, model, cut = self.unravel(vector), self.stats, self.spec.model, self.cut
        forward = dense_forward(model[:cut]) if masks is None else self.forward
        x, _ = forward(params[:cut], stats[:cut], masks, image[None], True, jnp.float32)
        x, _ = layers.apply(model[cut:], params[cut:], stats[cut:], x * factor, True)
        return -jax.nn.log_softmax(x)[0, label]

    def gradients(self, vector: np.ndarray, n: int, masks: Any = None, rate: float = 0.0) -> Any:
        """Gradients of client n by example and dropout mask, with their probabilities."""
        factors, chance = jnp.ones(1), np.ones(1)
        if rate:
            kept = np.array(list(itertools.product((0, 1), repeat=UNITS)))
            chance = np.prod(np.where(kept, 1 - rate, rate), axis=1)
            factors = jnp.asarray(kept[:, None] / (1 - rate), jnp.float32)
        vector = jnp.asarray(vector, jnp.float32)
        gradients = self.all_gradients(vector, *self.examples, masks, factors)
        of_client = np.asarray(gradients, np.float64)[self.owner == n]
        size = len(of_client)
        return of_client.reshape(-1, of_client.shape[-1]), np.tile(chance / size, size)

    def joined(self, state: Any) -> tuple[np.ndarray, ...]:
        """v, and every participant's share in the mean, weights and kept entries."""
        ids, rest = np.asarray(state.participants), flat(state.server.params)
        equal, sizes = self.spec.aggregation == "equal", np.bincount(self.owner)[ids]
        share = np.full(len(ids), 1 / len(ids)) if equal else sizes / sizes.sum()
        rows = [jax.tree.map(itemgetter(slot), state.clients) for slot in range(len(ids))]
        w = np.stack([np.append(flat(client.params), rest) for client in rows])
        kept = np.ones(w.shape, bool)
        if rows[0].masks is not None:
            kept[:, : -rest.size] = [flat(self.spec.pruner.kept(r.masks).params) for r in rows]
        total = share @ kept
        mean = share @ (kept * w) / np.where(total > 0, total, 1.0)
        v = np.where(total > 0, mean, np.append(flat(state.aggregator.params), rest))
        # Between two periods all participants hold v, up to rounding.
        return v, share, np.where(kept & (int(state.round) % 2 == 0), v, w), kept

    def exact(self, state: Any) -> dict[str, Any]:
        """The true values of the fields of `Estimates`; squares for both smoothness constants."""
        (v, share, w, kept), ids, rows_of = self.joined(state), np.asarray(state.participants), []
        for slot, (n, m, weight) in enumerate(zip(ids, kept, w, strict=True)):
            masks = jax.tree.map(itemgetter(slot), state.clients.masks) if self.forward else None
            points = (v, None), (np.where(m, weight, v), None), (np.where(m, weight, 0.0), masks)
            means = [np.mean(self.gradients(x, n, given)[0], axis=0) for x, given in points]
            rows, chance = self.gradients(points[2][0], n, masks, self.rates[n])
            variance = chance @ (rows - chance @ rows) ** 2 / self.spec.batch_size
            error = chance @ self.rounding(rows * m, self.bits[n])
            rows_of.append((*means, chance @ rows, variance, error))
        at_v, at_w, at_z, sent, variance, errors = map(np.stack, zip(*rows_of, strict=True))
        total = share @ kept

        def keepers(change: np.ndarray) -> np.ndarray:
            return share @ (kept * change) / np.where(total > 0, total, 1.0)

        by_layer = partial(np.bincount, self.layer, minlength=len(self.spec.model))
        mean, masses, number = share @ at_v, by_layer(v**2), len(ids)
        sigma, expected = (by_layer(share @ (kept * x)) for x in (variance, sent**2))
        energy = np.sum((sigma + expected)[: self.cut])
        apart, pruned = np.sum(share @ (kept * (w - v) ** 2)), np.sum(share @ (~kept * v**2))
        return {
            "beta_drift": np.sum(keepers(at_v - at_w) ** 2) / (apart or np.nan),
            "beta_pruning": np.sum(keepers(at_w - at_z) ** 2) / (pruned or np.nan),
            **{"variance": sigma, "expected": expected, "moment": sigma + expected},
            "weight": masses,
            "dissimilarity": np.sum(share @ (at_v - mean) ** 2) * number / (number - 1),
            "rho": pruned / np.sum(masses[: self.cut]),
            "phi": np.sum(mean[total == 0] ** 2) / energy,
            "chi": np.sum((mean - keepers(at_v))[total > 0] ** 2) / energy,
            "q": share @ errors / energy,
            "eps_d": np.sum(keepers(at_z - sent) ** 2),
            "coverage": np.min(total[total > 0]),
        }

    def rounding(self, rows: np.ndarray, bits: int) -> np.ndarray:
        """E||Q(x) - x||^2 of QSGD for the clients' part of each row; 32 bits are off."""
        begin, errors, top = 0, np.zeros(len(rows)), 2 ** (bits - 1) - 1
        for leaf in jax.tree.leaves(self.start.aggregator.params):
            x, begin = rows[:, begin : begin + leaf.size], begin + leaf.size
            x = np.pad(x, ((0, 0), (0, -leaf.size % BUCKET))).reshape(len(rows), -1, BUCKET)
            level = np.linalg.norm(x, axis=2, keepdims=True) / top
            fraction = np.abs(x) / np.where(level > 0, level, 1.0) % 1
            errors += np.sum(level**2 * fraction * (1 - fraction), axis=(1, 2))
        return errors * (bits < 32)


@cache
def case(name: str) -> Case:
    if name == "uneven":
        return Case(Effort(512, 100, 1024, 50), partition="dirichlet", dirichlet_alpha=2.0,
                    aggregation="examples")  # fmt: skip
    if name == "channels":
        return Case(Effort(128, 4, 40, 60), clients=3, batch_size=4, model="conv", norm="group",
                    prune_kind="channel", prune_ladder=(1.0, 0.5), prune_rate=(0.5, 0.0, 0.5),
                    prune_score="random")  # fmt: skip
    # Any three clients can be measured. With batches of one example, all quantized gradients are
    # known.
    made = Case(Effort(1280, 8, 40, 60), clients=12, participants=3, batch_size=1,
                 partition="shards", prune_kind="mask", prune_rate=(0.5,), prune_score="random",
                 dropout_rate="0,0,0,.4,.4,.4,.7,.7,.7,0,0,0", quantizer="qsgd", bucket_size=BUCKET,
                 client_gradient_bits="32,32,32,4,4,4,8,8,8,32,32,32",
                 cut_gradient_bits="32,32,32,32,32,32,32,32,32,4,4,4")  # fmt: skip
    made.rates, made.bits = np.repeat([0, 0.4, 0.7, 0], 3), np.repeat([32, 4, 8, 32], 3)
    return made


def assert_agrees(draws: Any, exact: dict[str, Any]) -> None:
    """Every estimate is within five standard errors, which are small enough for a real test."""
    for name, expected in exact.items():
        value, error = (np.asarray(x, np.float64) for x in getattr(draws, name))
        if name.startswith("beta"):  # standard errors are those of squares
            value, error = value**2, (value + error) ** 2 - value**2
        allowed = 5 * error + 1e-5 * np.abs(expected) + NOTHING
        agrees = (np.abs(value - expected) <= allowed) & (error <= expected / 3 + NOTHING)
        unknown = np.isnan(value + error) & np.isnan(expected)
        assert np.all(agrees | unknown), (name, value, error, expected)


def test_objective_weighs_clients_as_aggregation_does_and_their_examples_equally():
    c, (params, stats, _) = case("uneven"), case("uneven").experiment.initial
    part = partial(block_loss, c.spec, c.data, stats)
    whole = jax.jit(partial(over_blocks, lambda b: jax.value_and_grad(part)(params, b)))
    shares = {"examples": np.full(120, 1 / 120), "equal": 1 / (4 * np.bincount(c.owner)[c.owner])}
    for (aggregation, share), block in itertools.product(shares.items(), (1, 50, 1000)):
        examples = all_examples(c.spec._replace(aggregation=aggregation), c.data, block)
        indices, weights = (np.ravel(x) for x in examples)
        np.testing.assert_array_equal(indices[:120], np.arange(120))
        np.testing.assert_allclose(weights, np.pad(share, (0, len(weights) - 120)), rtol=1e-6)
        loss, slope = jax.value_and_grad(c.mean_loss)(jnp.float32(flat(params)), jnp.float32(share))
        assert_close(whole(examples), (loss, c.unravel(slope)), rtol=1e-4)


def test_examples_that_pad_the_shards_of_devices_have_no_weight():
    c = case("uneven")
    starts, sizes = map(np.asarray, c.data.partition)
    shares = [start + np.arange(size) for start, size in zip(starts, sizes, strict=True)]
    order, parts = pack(shares, np.array([1, 0, 2, 0]), 3)
    data = c.data._replace(partition=parts, labels=c.data.labels[order])
    for aggregation in ("examples", "equal"):
        spec, summed = c.spec._replace(aggregation=aggregation), np.zeros(120)
        indices, weights = all_examples(spec, data, 50)
        np.add.at(summed, order[np.asarray(indices)], weights)
        plain = all_examples(spec, c.data, 120)
        expected = np.ravel(plain.weights)
        np.testing.assert_allclose(summed[np.ravel(plain.indices)], expected, rtol=1e-6)
    assert len(order) > 120, "there has to be padding in the test"


def test_some_examples_are_drawn_in_proportion_to_weights_or_all_if_they_are_no_more():
    c = case("uneven")
    examples = all_examples(c.spec._replace(aggregation="equal"), c.data, 50)
    draw = jax.jit(jax.vmap(lambda key: some_examples(examples, key, 64, 50)))
    indices, weights = draw(jax.random.split(jax.random.key(1), 2000))
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-6)
    drawn, expected = np.asarray(indices)[np.asarray(weights) > 0], np.zeros(120)
    np.add.at(expected, examples.indices, examples.weights)
    assert drawn.size == 2000 * 64 and expected.max() > 1.5 * expected.min()
    frequency = np.bincount(drawn, minlength=120) / drawn.size
    # Chi-square of 119 degrees of freedom: mean 119, standard deviation 15.4.
    assert abs(np.sum((frequency - expected) ** 2 / expected) * drawn.size - 119) < 5 * 15.4
    for count in (120, 150, 2048):
        assert_equal(some_examples(examples, jax.random.key(0), count, 50), examples)


def test_loss_gradient_and_curvatures_are_those_of_all_examples_at_the_joined_model():
    c, share = case("uneven"), jnp.full(120, 1 / 120)
    v = jnp.asarray(c.joined(c.middle)[0], jnp.float32)
    assert_close(joined(c.spec, c.data.partition, c.middle).params, c.unravel(v))
    slope = jax.grad(c.mean_loss)
    at, measured = slope(v, share), c.measure(c.middle)
    np.testing.assert_allclose(measured.loss.value, c.mean_loss(v, share), rtol=1e-5)
    np.testing.assert_allclose(measured.squared_gradient.value, at @ at, rtol=1e-4)
    alone = jax.jit(partial(measure_objective, c.spec, Effort(block=70)))
    assert_close(tuple(alone(c.data, c.key, c.middle)), tuple(measured[:2]), rtol=1e-4)
    hessian = jax.jit(jax.jacrev(slope))(v, share)
    np.testing.assert_allclose(measured.beta.value, np.linalg.norm(hessian, 2), rtol=1e-4)
    change = np.linalg.norm(slope(v - STEP * at, share) - at) / (STEP * np.linalg.norm(at))
    np.testing.assert_allclose(measured.beta_step.value, change, rtol=1e-3)


@pytest.mark.parametrize("name", ["uneven", "masks"])
def test_the_measured_step_is_the_next_round_of_one_exchange(name):
    c = case(name)
    measured, examples = c.measure(c.middle), all_examples(c.spec, c.data, 60)
    weights = np.zeros(120)
    np.add.at(weights, examples.indices, examples.weights)
    weights = jnp.asarray(weights, jnp.float32)
    v, after = (jnp.asarray(c.joined(s)[0], jnp.float32) for s in (c.middle, c.round(c.middle)[0]))
    slope, step = jax.jit(jax.grad(c.mean_loss)), np.float64(after - v)
    at_start, at_end = (np.float64(slope(x, weights)) for x in (v, after))
    length = np.linalg.norm(step)
    assert length > 0
    change = np.linalg.norm(at_end - at_start) / length
    np.testing.assert_allclose(measured.beta_taken.value, change, rtol=1e-2)
    risen = np.float64(c.mean_loss(after, weights)) - np.float64(c.mean_loss(v, weights))
    needed = 2 * (risen - at_start @ step) / length**2
    rise = measured.beta_rise
    np.testing.assert_allclose(rise.value, needed, atol=3 * rise.error)
    # The noise matters: the step differs from a gradient step.
    assert abs(measured.beta_taken.value / measured.beta_step.value - 1) > 0.01


def test_the_measured_step_is_the_first_of_several_exchanges():
    changes = {"dropout_rate": 0.3, "cut_gradient_bits": 4, "clients": 3, "aggregate_every": 2}
    moved = []
    for steps in (1, 3):
        e, state, _ = setup(local_steps=steps, **changes)
        moved.append(jax.jit(partial(after_exchange, e.spec))(e.data, e.key, state))
    assert_close(*moved)
    assert differs(moved[0], e.initial.params)


@pytest.mark.parametrize("when", ["within", "end"])
def test_unequal_weights_within_a_period_and_at_its_end(when):
    c = case("uneven")
    state = c.middle if when == "within" else c.round(c.middle)[0]
    draws, exact = c.measure(state).draws, c.exact(state)
    assert_agrees(draws, exact)
    assert np.isnan(exact["beta_drift"]) == (when == "end") and np.isnan(exact["beta_pruning"])
    # Without compression its effects are exactly 0.
    assert all(getattr(draws, name) == (0, 0) for name in ("rho", "phi", "chi", "q", "eps_d"))
    assert draws.coverage.value == pytest.approx(1, abs=1e-6)


def test_a_measurement_changes_nothing_and_repeats_to_the_bit():
    c = case("uneven")
    before, first = jax.tree.map(np.array, c.middle), c.measure(c.middle)
    assert_equal((c.measure(c.middle), c.middle), (first, before))
    later = c.measure(c.middle.replace(round=c.middle.round + 2))
    other_key = c.measured(c.data, jax.random.key(7), c.middle)
    for name in ("loss", "squared_gradient", "beta_step"):
        assert getattr(later, name) == getattr(other_key, name) == getattr(first, name)
    for name in ("variance", "moment", "expected", "dissimilarity", "beta_drift"):
        values = [getattr(m.draws, name).value for m in (first, later, other_key)]
        assert all(differs(a, b) for a, b in itertools.combinations(values, 2)), name


@pytest.mark.parametrize("kind", ["different", "end", "alike", slow("channels")])
def test_partial_participation_with_masks(kind):
    c = case("channels" if kind == "channels" else "masks")
    state = c.start if kind == "end" else c.middle
    if kind == "alike":
        masks = jax.tree.map(lambda m: jnp.broadcast_to(m[:1], m.shape), state.clients.masks)
        state = state.replace(clients=state.clients.replace(masks=masks))
    draws, exact = c.measure(state).draws, c.exact(state)
    assert_agrees(draws, exact)
    assert draws.coverage.value == pytest.approx(1 if kind == "alike" else 1 / 3)
    assert draws.chi.value > 3 * draws.chi.error if kind != "alike" else draws.chi.value < NOTHING
    assert exact["rho"] > 0.1 and exact["beta_pruning"] > 0 and draws.q == draws.eps_d == (0, 0)
    assert np.isnan(draws.beta_drift.value) == (kind == "end")  # no client has drifted
    assert (exact["phi"] > 0) == (kind != "channels")  # there one client keeps all channels


def test_dropout_bias_and_quantization_error_equal_their_enumeration():
    c = case("masks")
    less, more = c.within(3), c.within(6)
    measured = [c.measure(state) for state in (less, more)]
    for state, (*_, beta, _, draws), top in zip((less, more), measured, (7, 127), strict=True):
        assert_agrees(draws, c.exact(state))
        assert 0 < beta.value < 99 and 0 < draws.q.value < min(BUCKET / top**2, BUCKET**0.5 / top)
    assert measured[0].draws.q.value > 50 * measured[1].draws.q.value
    assert 0 < measured[0].draws.eps_d.value < measured[1].draws.eps_d.value


def test_a_quantized_cut_gradient_is_an_error_but_no_bias():
    c = case("masks")
    state = c.within(9)
    draws = c.measure(state).draws
    assert draws.q.value > 20 * draws.q.error > 0 and draws.eps_d == (0, 0)
    assert_agrees(draws._replace(q=(0, 0)), c.exact(state))
