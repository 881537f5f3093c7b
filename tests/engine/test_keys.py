"""No key is used twice in a round, whatever the algorithm sends, prunes and draws."""

import functools
from typing import Any

import jax
import pytest
from helpers import plain
from jax.errors import KeyReuseError
from jax.experimental.key_reuse._core import check_key_reuse

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.run.assemble import build

COMPRESSED: dict[str, Any] = {
    "smashed": "dropout(0.2)|uniform(8)", "cut_gradient": "qsgd(4)", "model_up": "uniform(8)",
    "model_down": "uniform(8)", "client_gradient": "uniform(8)", "prune_kind": "mask",
    "prune_score": "random", "prune_rate": (0.3,), "network": "macro_cell",
}  # fmt: skip


def test_a_key_used_twice_is_reported() -> None:
    def twice(key: jax.Array) -> jax.Array:
        return jax.random.normal(key) + jax.random.uniform(key)

    with pytest.raises(KeyReuseError):
        check_key_reuse(twice, jax.random.key(0))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_of_every_algorithm_uses_each_key_once(name: str) -> None:
    algorithm = ALGORITHMS[name]
    streams = {stream.compressor for stream in algorithm.streams}
    flags = streams | ({"prune_kind", "prune_score", "prune_rate", "network"} if streams else set())
    changes = {flag: value for flag, value in COMPRESSED.items() if flag in flags}
    participants = None if algorithm.all_take_part else 3
    experiment = build(plain(algorithm=name, participants=participants, **changes))
    run_round = functools.partial(experiment.spec.algorithm.run_round, experiment.spec)
    check_key_reuse(run_round, experiment.data, experiment.key, experiment.init())
