"""Averages of low-rank adapters against NumPy, and runs whose clients have different ranks."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, setup, slow
from models.transformers import reference
from run.assemble.test_pretrained import ids

from jfedsl.data.datasets import DATASETS
from jfedsl.engine.adapter_averaging import (
    Factors,
    adapters_of,
    relative_error,
    stacked,
    truncated,
    with_kernels,
    with_parts,
)
from jfedsl.engine.averaging import merge
from jfedsl.engine.initial import init
from jfedsl.engine.traffic import uncompressed_bytes

RANKS = (2, 3, 1)
MODEL: dict[str, str] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny BERT without its last block, which these tests need not compute."""
    return reference.shortened("bert", 2, tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def registered(tables: None, folder: str) -> Iterator[None]:
    DATASETS["ids"] = lambda _: ids()
    MODEL["pretrained"] = folder
    yield


def settings(**changes: Any) -> dict[str, Any]:
    """Three clients with adapters of different ranks on the block before the cut."""
    given: dict[str, Any] = {"dataset": "ids", **MODEL, "cut": "block1"}
    given |= {"clients": 3, "adapter": "lora(3,alpha=6)", "client_adapter": "lora([2,3,1],alpha=6)"}
    given |= {"client_learning_rate": 2.0, "aggregation": "examples"}
    return {**given, "client_optimizer_state": "reset", "momentum": 0.5, **changes}


def drawn(clients: int, rank: int, rng: np.random.Generator) -> Factors:
    a, b = rng.normal(size=(clients, 7, rank)), rng.normal(size=(clients, rank, 5))
    return Factors(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))


@pytest.mark.parametrize(("clients", "rank"), [(1, 2), (2, 2), (4, 3)])
def test_svd_is_the_best_product_of_its_rank(clients: int, rank: int) -> None:
    rng = np.random.default_rng(clients)
    factors, share = drawn(clients, rank, rng), rng.random(clients).astype(np.float32)
    product = np.einsum("p,pir,pro->io", share, *map(np.asarray, factors))
    whole = stacked(factors, jnp.asarray(share))
    assert_close(whole.a @ whole.b, product, atol=1e-4)
    before = drawn(1, rank, rng)
    new = truncated(whole, Factors(before.a[0], before.b[0]))
    u, s, v = np.linalg.svd(product)
    assert_close(new.a @ new.b, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-4)
    mean = ({"lora_a": new.a, "lora_b": new.b},)
    error = relative_error(mean, (rows_of(factors),), None, share)
    expected = np.sqrt(np.sum(s[rank:] ** 2) / np.sum(s**2))
    np.testing.assert_allclose(error, expected, atol=1e-3)


def rows_of(factors: Factors) -> dict[str, Any]:
    return {"lora_a": factors.a, "lora_b": factors.b}


def test_directions_that_a_product_lacks_keep_their_first_factor() -> None:
    """With 0 in both factors an adapter could not be trained any more."""
    rng = np.random.default_rng(0)
    before, one = drawn(1, 3, rng), drawn(1, 1, rng)
    new = truncated(stacked(one, jnp.ones(1)), Factors(before.a[0], before.b[0]))
    assert_close(new.a @ new.b, one.a[0] @ one.b[0], atol=1e-5)
    np.testing.assert_array_equal(new.a[:, 1:], before.a[0, :, 1:])
    assert not new.b[1:].any()
    nothing = Factors(one.a, jnp.zeros_like(one.b))
    new = truncated(stacked(nothing, jnp.ones(1)), Factors(before.a[0], before.b[0]))
    np.testing.assert_array_equal(new.a, before.a[0])


@cache
def in_period(**changes: Any) -> tuple[Any, Any, Any]:
    """A run in the middle of a period, when clients have different adapters, and their shares."""
    experiment, state, run = setup(**settings(aggregate_every=2, **changes))
    state, _ = run(state)
    sizes = experiment.data.partition.sizes[state.participants]
    return experiment, state, np.asarray(sizes / sizes.sum(), np.float64)


def products(state: Any, share: np.ndarray, fixed: Any = None) -> list[np.ndarray]:
    """The mean of products of each adapter, in float64, of the ranks that clients have."""
    numbers = np.asarray(state.clients.number)
    keep = np.arange(3) < np.asarray(RANKS)[numbers][:, None]  # [P, R]

    def product(rows: Any) -> np.ndarray:
        a, b = (np.asarray(rows[name], np.float64) for name in ("lora_a", "lora_b"))
        mean: np.ndarray = np.einsum("p,pr,pir,pro->io", share, keep, a, b)
        return mean

    return [product(rows) for rows in adapters_of(state.clients.params).values()]


def merged(experiment: Any, state: Any, share: np.ndarray, kind: str | None = None) -> Any:
    """What averaging makes now, by the rule of the run or of another kind."""
    spec, weights = experiment.spec, jnp.asarray(share, jnp.float32)
    spec = spec._replace(adapters=spec.adapters._replace(kind=kind or spec.adapters.kind))
    return jax.jit(partial(merge, spec))(state.aggregator, state.clients, weights)


def test_stacking_adds_the_mean_of_products_to_kernels() -> None:
    norms = "lora([2,3,1],alpha=6,norms=yes)"  # trained, and not beside frozen kernels
    experiment, state, share = in_period(adapter_averaging="stack", client_adapter=norms)
    after, expected = merged(experiment, state, share), products(state, share)
    assert len(after.kernels) == len(expected) == 2
    for (path, kernel), product in zip(after.kernels.items(), expected, strict=True):
        before = np.asarray(state.aggregator.kernels[path], np.float64)
        assert np.abs(product).max() > 1e-4
        np.testing.assert_allclose(kernel - before, 2.0 * product, atol=1e-6)  # alpha / R
    assert not any(pair[1].any() for pair in factors(after.params))
    frozen = with_kernels(experiment.data.frozen, after.kernels)
    np.testing.assert_array_equal(
        frozen[1]["attention"]["q"]["kernel"], after.kernels["1/attention/q"]
    )


def factors(params: Any) -> list[tuple[Any, Any]]:
    return [(x["lora_a"], x["lora_b"]) for x in adapters_of(params).values()]


def test_svd_is_of_the_mean_of_products_and_says_its_error() -> None:
    experiment, state, share = in_period()
    after, expected = merged(experiment, state, share, "svd"), products(state, share)
    distances = norms = 0.0
    for (a, b), product in zip(factors(after.params), expected, strict=True):
        u, s, v = np.linalg.svd(product)
        assert_close(a @ b, (u[:, :3] * s[:3]) @ v[:3], atol=1e-6)
        tails = [np.sum(s[rank:] ** 2) for rank in np.asarray(RANKS)[state.clients.number]]
        distances, norms = distances + share @ tails, norms + np.sum(s**2)
    np.testing.assert_allclose(after.adapter_error, np.sqrt(distances / norms), rtol=1e-2)


def test_a_fixed_first_factor_makes_the_average_exact() -> None:
    experiment, state, share = in_period(adapter_averaging="freeze")
    after = merged(experiment, state, share).params[1]["attention"]
    rows = state.clients.params[1]["attention"]
    keep = np.arange(3) < np.asarray(RANKS)[np.asarray(state.clients.number)][:, None]
    for name in ("q", "v"):
        a = np.asarray(experiment.data.frozen[1]["attention"][name]["lora_a"], np.float64)
        assert set(rows[name]) == {"lora_b"}
        updates = np.einsum("ir,pr,pro->pio", a, keep, np.asarray(rows[name]["lora_b"]))
        expected = np.einsum("p,pio->io", share, updates)
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(a @ np.asarray(after[name]["lora_b"]), expected, atol=1e-6)


def test_factors_apart_have_zeros_for_missing_ranks() -> None:
    experiment, state, share = in_period()
    after = merged(experiment, state, share)
    keep = np.arange(3) < np.asarray(RANKS)[np.asarray(state.clients.number)][:, None]
    a, b = factors(after.params)[0]
    rows = factors(state.clients.params)[0]
    np.testing.assert_allclose(a, np.einsum("p,pr,pir->ir", share, keep, rows[0]), atol=1e-6)
    np.testing.assert_allclose(b, np.einsum("p,pr,pro->ro", share, keep, rows[1]), atol=1e-6)
    assert after.adapter_error > 1e-3


@pytest.mark.parametrize("rank", [1, slow(2)])
def test_a_client_of_a_small_rank_steps_like_one_with_zeros(rank: int) -> None:
    experiment, state, run = setup(**settings(local_steps=1))
    state, record = run(state)
    same, _, padded_run = setup(**settings(client_adapter="lora(3,alpha=6)"))
    start = same.initial
    cut_off = {
        path: {"lora_a": x["lora_a"].at[:, rank:].set(0)}
        for path, x in adapters_of(start.params[:2]).items()
    }
    start = start._replace(params=with_parts(start.params, cut_off))
    padded = init(same.spec, same.key, start, same.image)
    _, of_padded = padded_run(padded)
    client, losses = RANKS.index(rank), []
    for one in (record, of_padded):
        (position,) = np.flatnonzero(np.asarray(one.participants) == client)
        losses.append(one.losses[:, position])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    (position,) = np.flatnonzero(np.asarray(record.participants) == client)
    # 2 projections of width 16; r of the rank alone are sent.
    assert record.sent["model_up"][position] == 4 * 2 * rank * 32


def test_what_is_sent_down_where_adapters_are_stacked() -> None:
    experiment, state, run = setup(**settings(adapter_averaging="stack"))
    client = experiment.fresh()
    total = 0
    for number in range(2):
        state, record = run(state)
        ranks = np.asarray(RANKS)[np.asarray(record.participants)]
        sent = ranks if number == 0 else np.full(3, sum(RANKS))
        np.testing.assert_array_equal(record.sent["model_down"], 4 * 2 * 32 * sent)
        total += 4 * 2 * 32 * (3 * 3 if number == 0 else 3 * sum(RANKS))
    dense = uncompressed_bytes(experiment.spec, client.params, client.stats, (6,), 2)
    assert dense["model_down"] == total
    # The model that is tested has the products in its kernels.
    evaluate = experiment.evaluate()
    tested = evaluate(experiment.data, state, experiment.test)
    without = state.replace(aggregator=state.aggregator.replace(kernels={
        path: experiment.data.frozen[1]["attention"][path[-1]]["kernel"]
        for path in state.aggregator.kernels
    }))  # fmt: skip
    assert abs(tested.loss - evaluate(experiment.data, without, experiment.test).loss) > 1e-5
