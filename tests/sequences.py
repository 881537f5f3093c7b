"""Token ids in sequences of unequal length, and a model that looks at several positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jfedsl.data.datasets import Dataset, from_arrays
from jfedsl.models.layers import Model, from_linen
from jfedsl.models.registry import ModelEntry
from jfedsl.models.tokens import padded

IDS, LONGEST, WIDTH = 20, 5, 6
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
