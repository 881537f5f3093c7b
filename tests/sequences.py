"""Token ids in sequences of unequal length, and a model that looks at several positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from helpers import assert_close, assert_equal, setup

from jfedsl.data.datasets import Dataset, from_arrays
from jfedsl.models.layers import Model, from_linen
from jfedsl.models.registry import ModelEntry
from jfedsl.models.tokens import padded

IDS, LONGEST, WIDTH = 20, 5, 6
SHORT, LONG = LONGEST, LONGEST + 2  # positions of data sets; lengths take 3 bits either way
TRAIN, TEST = 120, 30


class Mixed(nn.Module):
    """What is at a position, and the mean over all that are no padding."""

    pooled: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, lengths: Any) -> jax.Array:
        """Of `x[B, T, D]`: `[B, T, WIDTH]`, or `[B, D]` where positions are pooled."""
        count = x.shape[1] if lengths is None else lengths[:, None, None].astype(x.dtype)
        mean = jnp.sum(x, axis=1, keepdims=True) / count
        return mean[:, 0] if self.pooled else nn.Dense(WIDTH)(x) + nn.Dense(WIDTH)(mean)


def model(classes: int, norm: str = "none") -> Model:
    """Two layers with positions on either side of the cut after `mixed`, and pooling."""
    del norm
    return (
        padded(from_linen("embed", nn.Embed(IDS, WIDTH))),
        from_linen("mixed", Mixed(), nn.sigmoid),  # not 0 at 0
        from_linen("dense", nn.Dense(WIDTH), nn.softplus),
        from_linen("again", Mixed()),
        from_linen("pool", Mixed(pooled=True)),
        from_linen("logits", nn.Dense(classes)),
    )


ENTRY = ModelEntry(model, "mixed")


def ids(positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences `[TRAIN + TEST, positions]` of 1 to LONGEST ids, and their lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LONGEST + 1, TRAIN + TEST)
    values = rng.integers(0, IDS, (TRAIN + TEST, LONGEST))
    sequences = np.full((TRAIN + TEST, positions), -1)
    sequences[:, :LONGEST] = np.where(np.arange(LONGEST) < lengths[:, None], values, -1)
    return sequences, lengths


def dataset(positions: int) -> Dataset:
    """The data set, its labels the first id modulo 3."""
    x = ids(positions)[0]
    y = x[:, 0] % 3
    return from_arrays((x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:]), normalise=False)


def assert_padding_changes_nothing(short: dict[str, Any], long: dict[str, Any]) -> tuple[Any, Any]:
    """Asserts that a round and a test have the same numbers and bytes with more padding.

    Args:
      short: settings of an experiment on a data set of `SHORT` positions.
      long: the same on one of `LONG` positions.

    Returns:
      The record of the round and the evaluation.
    """
    results = []
    for settings in (short, long):
        experiment, state, run = setup(**settings)
        state, record = run(state)
        tested = experiment.evaluate()(experiment.data, state, experiment.test)
        results.append((state, record, tested))
    (state, record, tested), (other, of_other, of_test) = results
    assert_close((other, of_other.losses, of_test), (state, record.losses, tested), atol=1e-5)
    # What is broadcast has the padding of all in it: a client knows no lengths but its own.
    counted = set(record.sent) - {"shared_gradient_down"}
    assert_equal(*({name: r.sent[name] for name in counted} for r in (of_other, record)))
    return record, tested
