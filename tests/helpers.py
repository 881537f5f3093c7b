"""Small experiments and comparisons that the tests share."""

import functools
import importlib
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags

from jfedsl.config import Config
from jfedsl.config.compressors import SHORTHANDS
from jfedsl.config.flags import define_flags, from_flags
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.state import weights
from jfedsl.keys import Purpose, fold
from jfedsl.run.assemble import Experiment, build

# All compression off; plain SGD.
PLAIN: dict[str, Any] = {
    "model": "mlp",
    "norm": "none",
    "clients": 4,
    "rounds": 4,
    "local_steps": 1,
    "aggregate_every": 1,
    "batch_size": 8,
    "partition": "iid",
    "aggregation": "equal",
    "prune_kind": "none",
    "dropout_rate": 0.0,
    "smashed_bits": 32,
    "cut_gradient_bits": 32,
    "client_gradient_bits": 32,
    "momentum": 0.0,
    "progress": "none",
    "network": "none",
}


def slow(*case: Any) -> Any:
    """A case that is left out of the quick suite, as others like it are in it."""
    return pytest.param(*case, marks=pytest.mark.slow)


def plain(**changes: Any) -> Config:
    """A config with all compression off, but for `changes`."""
    # An expression, such as uplink, replaces its shorthands, such as dropout_rate.
    replaced = {
        name for expression, names in SHORTHANDS.items() if expression in changes for name in names
    }
    kept = {name: value for name, value in PLAIN.items() if name not in replaced}
    return Config(**{**kept, **changes})


def parse(arguments: list[str], command: Any = None) -> Config:
    """The config that a command line describes, for a command with flags of its own."""
    values = flags.FlagValues()
    define_flags(values)
    if command is not None:
        command.define(values)
    values(["program", *arguments])
    return from_flags(values)


def script(name: str) -> Any:
    """The module that a script of experiments/ starts."""
    return importlib.import_module(f"jfedsl.commands.{name}")


def given(command: Any, *arguments: str) -> flags.FlagValues:
    """The flags of its own that the module of a command has after it has read these arguments."""
    values = flags.FlagValues()
    command.define(values)
    values(["program", *arguments])
    return values


def setup(**changes: Any) -> tuple[Experiment, Any, Any]:
    """An experiment, its initial state, and its jitted round `state -> (state, record)`."""
    experiment = build(plain(**changes))
    run_round = jax.jit(functools.partial(experiment.spec.algorithm.run_round, experiment.spec))
    return (
        experiment,
        experiment.init(),
        functools.partial(run_round, experiment.data, experiment.key),
    )


def exchange_of(experiment: Experiment, state: Any, key: Any = None) -> Exchange:
    """The `Exchange` of the first exchange; noise is drawn with `key`, default the run key."""
    spec, key = experiment.spec, experiment.key if key is None else key
    key = fold(key, Purpose.EXCHANGE, 0, 0)
    return Exchange(
        spec=spec,
        data=experiment.data,
        run_key=experiment.key,
        key=key,
        client_keys=jax.vmap(lambda n: fold(key, n))(state.clients.number),
        step=jax.numpy.int32(0),
        forwards=spec.pruner.forwards,
        weights=weights(spec, experiment.data.partition, state.participants),
        availability=None,
        aggregated=state.aggregator.params,
    )


def assert_close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Asserts that two trees of arrays agree within tolerances."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), actual, expected
    )


def assert_equal(actual: Any, expected: Any) -> None:
    """Asserts that two trees of arrays are the same to the bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def differs(actual: Any, expected: Any) -> bool:
    """Whether any pair of leaves differs."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)
