"""A small grid of settings that the planner's tests share."""

from typing import Any

import jax.numpy as jnp
from helpers import plain

from jfedsl.config import Config
from jfedsl.planner.source import MeasuredRun
from jfedsl.theory.bound import Constants, Effects

SMALL = {"prune_rates": ["0", "0.3"], "periods": ["1", "2"]}
CONSTANTS = Constants(
    gap=2.0, beta=4.0, beta_drift=2.0, beta_pruning=1.0, beta_clients=4.0,
    variance=jnp.array([0.0, 0.2, 0.1, 0.1]), moment=jnp.array([0.0, 0.5, 0.3, 0.2]),
    expected=jnp.array([0.0, 0.3, 0.2, 0.1]), weight=jnp.array([0.0, 9.0, 5.0, 2.0]),
)  # fmt: skip


def base(**changes: Any) -> Config:
    """The config that all settings change: mlp on 60 digits, 3 clients in a macro cell."""
    settings: dict[str, Any] = {
        "clients": 3, "train_examples": 60, "test_examples": 20, "prune_kind": "mask",
        "sampling": "replacement", "compilation_cache": "", "client_learning_rate": 0.01,
        "server_learning_rate": 0.01, "network": "macro_cell",
    }  # fmt: skip
    return plain(**{**settings, **changes})


def source(**changes: Any) -> MeasuredRun:
    """A measured run of the same problem in which masks leave 0.3 of the weights to nobody."""
    eps_d = 0.02 if "dropout_rate" in changes else 0.0
    return MeasuredRun(base(**changes), CONSTANTS, Effects(phi=0.01, eps_d=eps_d), 0.3)
