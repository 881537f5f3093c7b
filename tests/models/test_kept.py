"""What is kept of a model, and for which models nothing is."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jfedsl.models import layers
from jfedsl.models.kept import kept
from jfedsl.models.layers import Layer, Model


def counting() -> tuple[Any, list[int]]:
    calls: list[int] = []

    @kept
    def count(model: Model, more: int = 0) -> int:
        calls.append(more)
        return len(model) + more

    return count, calls


def test_results_are_kept_for_each_model_and_argument() -> None:
    dense, other = (layers.from_linen("dense", nn.Dense(2)) for _ in range(2))
    count, calls = counting()
    assert [count((dense,)), count((dense,)), count((dense,), more=3), count((other,))] == [
        1, 1, 4, 1,
    ]  # fmt: skip
    assert calls == [0, 3, 0]


def test_nothing_is_kept_for_models_that_hold_arrays_or_are_no_key() -> None:
    @dataclass  # has no hash
    class Apply:
        scale: float

        def __call__(self, params: Any, stats: Any, x: Any, train: bool) -> Any:
            return self.scale * x, stats

    dense = layers.from_linen("dense", nn.Dense(2))
    starts: Layer = dense._replace(start=lambda held: held)
    frozen = layers.bound(dense, {"kernel": jnp.ones(2)})
    count, calls = counting()
    for model in ((starts,), (frozen,), (dense._replace(apply=Apply(2.0)),)):
        assert count(model) == count(model) == 1
    assert len(calls) == 6
