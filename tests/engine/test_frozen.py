"""Frozen variables: shared by all clients, held once, never stepped, sent, averaged or saved."""

import json
import re
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
from jfedsl.models.frozen import Bound
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.load import load
from jfedsl.run.training import train

SIZES = (adapters.INPUTS, *adapters.WIDTHS)
SHAPES = list(zip(SIZES, SIZES[1:], strict=False))  # of the frozen kernels
COMPRESSED = {
    "prune_kind": "mask",
    "prune_rate": (0.0, 0.3, 0.5, 0.2),
    "dropout_rate": 0.2,
    "cut_gradient_bits": 8,
    "client_gradient_bits": 8,
    "momentum": 0.9,
    "aggregate_every": 2,
}


@pytest.fixture(autouse=True)
def registered(tables: None) -> Iterator[None]:
    """The model by the names of the types of its frozen kernels."""
    for name in ("float32", "bfloat16", "int8"):
        MODELS[name] = adapters.entry(adapters.adapted(10, dtype=jnp.dtype(name)))
    yield


def rounds(experiment: Experiment, count: int = 3) -> Any:
    return experiment.rounds(count)(experiment.data, experiment.key, experiment.init(), count)


def experiment_of(model: str, **changes: Any) -> tuple[Experiment, Experiment]:
    """A run, and the same run of a model that has its frozen variables written into its code."""
    experiment = build(plain(model=model, **changes))
    frozen = experiment.initial.frozen
    constants = adapters.with_constants(adapters.adapted(10, dtype=jnp.dtype(model)), frozen)
    MODELS["constants"] = adapters.entry(constants)
    return experiment, build(plain(model="constants", **changes))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("float32", COMPRESSED),
        slow("int8", {"client_chunk": 1, "algorithm": "sfl_v1"}),
        slow("bfloat16", {"client_chunk": 3, "algorithm": "fedavg"}),
        slow("float32", {"algorithm": "local_loss", "clients": 3}),
        slow("int8", {"algorithm": "u_shape", "cut": "2", "client_backward": "int8"}),
        slow("int8", {"remat_clients": True}),
        slow("float32", {"algorithm": "centralized"}),
    ],
)
def test_a_model_trains_as_with_constants_in_its_code(model: str, changes: dict[str, Any]) -> None:
    experiment, constants = experiment_of(model, **changes)
    before = jax.device_get(experiment.data.frozen)
    (state, record), (expected, of_expected) = rounds(experiment), rounds(constants)
    assert_close((state, record.losses), (expected, of_expected.losses), rtol=1e-4, atol=1e-5)
    assert_equal(record.sent, of_expected.sent)
    parts = [(s.server.params, s.clients.params) for s in (state, experiment.init())]
    assert differs(*parts)
    assert_equal(experiment.data.frozen, before)
    computed, other = (
        e.evaluate()(e.data, s, e.test) for e, s in ((experiment, state), (constants, expected))
    )
    assert_close(computed, other, rtol=1e-3, atol=1e-4)


ROUNDS_OF = [
    ("float32", {}),
    slow("bfloat16", {"client_chunk": 1}),
    ("int8", {"client_chunk": 3, "client_backward": "int8"}),
    slow("int8", {"remat_clients": True}),
    slow("bfloat16", {"algorithm": "sfl_v1", "compute_dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("model", "changes"), ROUNDS_OF)
def test_no_program_has_a_frozen_array_built_in_or_once_for_each_client(
    model: str, changes: dict[str, Any]
) -> None:
    e = build(plain(model=model, clients=5, **changes))
    state = e.init()
    programs = {
        "round": e.rounds(2).lower(e.data, e.key, state, 2),  # type: ignore[attr-defined]
        "evaluation": e.evaluate().lower(e.data, state, e.test),  # type: ignore[attr-defined]
    }
    if not changes:
        programs["constants"] = e.measure(0.1).lower(e.data, e.key, state)  # type: ignore[attr-defined]
    kernels = {f"{ins}x{outs}" for ins, outs in SHAPES}
    for name, program in programs.items():
        text = program.as_text()
        shapes = set(re.findall(r"tensor<([0-9x]+)x[a-z]", text))
        assert {s for s in shapes if s.endswith(tuple(kernels))} == kernels, name
        assert not re.findall(r"dense<[^>]{4000,}>", text), name


def test_frozen_arrays_are_neither_in_the_state_nor_counted_in_traffic() -> None:
    e = build(plain(model="float32"))
    assert [w.shape for w in jax.tree.leaves(e.initial.frozen)] == SHAPES
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(e.init))]
    assert not any(shape[-2:] in SHAPES for shape in shapes)
    client = e.fresh()
    sent = uncompressed_bytes(e.spec, client.params, client.stats, e.image.shape, 1)
    entries = sum(w.size for w in jax.tree.leaves(e.initial.params[: e.spec.cut]))
    assert entries == adapters.Adapted.rank * sum(map(sum, SHAPES[: e.spec.cut - 1]))
    assert sent["model_up"] == sent["model_down"] == 4 * entries * e.spec.clients


def test_channels_of_layers_with_frozen_variables_are_not_removed() -> None:
    with pytest.raises(UserError, match="adapted1 has frozen variables") as error:
        build(plain(model="float32", prune_kind="channel"))
    assert str(error.value).startswith("--prune_kind must be none or mask")


@pytest.mark.parametrize("model", [slow("float32"), "bfloat16"])
def test_a_run_goes_on_and_its_export_answers_as_it_does(tmp_path: Path, model: str) -> None:
    config = plain(model=model, rounds=2, workdir=str(tmp_path / "run"), train_examples=200)
    train(config)
    images = np.random.default_rng(0).integers(0, 16, (5, 8, 8, 1)).astype(np.uint8)
    fingerprint = json.loads((tmp_path / "run" / "fingerprint.json").read_text())
    assert "adapted1.kernel" in fingerprint["frozen"]
    of_run = load(tmp_path / "run")
    jfedsl.evaluate(tmp_path / "run", tmp_path / "export")
    of_export = load(tmp_path / "export")
    assert_equal(of_run.variables, of_export.variables)
    assert of_export.variables.frozen[1]["kernel"].dtype == jnp.dtype(model)
    np.testing.assert_array_equal(of_run.logits(images), of_export.logits(images))
    for trained in (of_run, of_export):  # a compiled program takes frozen arrays as arguments
        assert not any(isinstance(layer.apply, Bound) for layer in trained.model)
    again = plain(model=model, init_from=str(tmp_path / "export"), workdir=str(tmp_path / "next"))
    train(again)
    other = plain(model=model, seed=1, init_from=str(tmp_path / "export"))
    with pytest.raises(UserError, match="frozen.adapted1.kernel has other values"):
        train(other)
