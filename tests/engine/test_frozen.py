"""Frozen variables: shared by all clients, held once, never stepped, sent, averaged or saved."""

from collections.abc import Callable
from typing import Any

import adapters
import jax.numpy as jnp
import pytest
from helpers import plain

from jfedsl.run.assemble import Experiment, build

COMPRESSED = {
    "prune_kind": "mask",
    "prune_rate": (0.0, 0.3, 0.5, 0.2),
    "dropout_rate": 0.2,
    "cut_gradient_bits": 8,
    "client_gradient_bits": 8,
    "momentum": 0.9,
    "aggregate_every": 2,
}
LOCAL = {"algorithm": "local_loss", "aux": "mlp(8)"}


@pytest.fixture(autouse=True)
def table(tables: None) -> None:
    """The model by the names of the types of its frozen kernels."""
    for name in ("float32", "bfloat16", "int8"):
        model = adapters.adapted(10, dtype=jnp.dtype(name))
        adapters.MODELS[name] = adapters.Entry(lambda classes, norm, m=model: m, "adapted1")


def experiment_of(model: str = "float32", **changes: Any) -> Experiment:
    return build(plain(model=model, **changes))


def rounds(experiment: Experiment, count: int = 3) -> Any:
    data, key, state = experiment.data, experiment.key, experiment.init()
    return experiment.rounds(count)(data, key, state, count)


def lowered(function: Callable[..., Any], *arguments: Any) -> str:
    return str(function.lower(*arguments).as_text())  # type: ignore[attr-defined]
