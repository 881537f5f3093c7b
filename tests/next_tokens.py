"""A causal model of token ids, and texts whose next tokens it predicts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sequences
from flax import linen as nn

from jfedsl.data.datasets import Dataset
from jfedsl.models.layers import Model, from_linen
from jfedsl.models.registry import ModelEntry
from jfedsl.models.tokens import padded

IDS, WIDTH = sequences.IDS, sequences.WIDTH


class CausalMean(nn.Module):
    """What is at a position, and the mean over it and those before it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Of `x[B, T, D]`: `[B, T, WIDTH]`."""
        count = jnp.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None]
        return nn.Dense(WIDTH)(x) + nn.Dense(WIDTH)(jnp.cumsum(x, axis=1) / count)


def model(ids: int, norm: str = "none") -> Model:
    """Logits of the next token at every position; a bias makes them other than 0 at padding."""
    del norm
    return (
        padded(from_linen("embed", nn.Embed(ids, WIDTH))),
        from_linen("mixed", CausalMean(), nn.sigmoid),
        from_linen("again", CausalMean(), nn.softplus),
        from_linen("logits", nn.Dense(ids)),
    )


ENTRY = ModelEntry(model, "mixed")


def dataset(positions: int, byte_counts: bool = True) -> Dataset:
    """The sequences of `sequences`, of 1 to LONGEST ids, of three classes and five clients."""
    data = sequences.dataset(positions)
    owners = np.arange(len(data.train.labels), dtype=np.int32) % 5
    splits = data.train._replace(owners=owners), data.test
    if byte_counts:
        splits = tuple(s._replace(byte_counts=bytes_of(s.images)) for s in splits)
    return data._replace(train=splits[0], test=splits[1])


def bytes_of(ids: Any) -> np.ndarray:
    """As if a token were a text of 1 to 3 bytes, int32 `[N]`: those after the first."""
    each = np.where(ids >= 0, ids % 3 + 1, 0)
    return each[:, 1:].sum(axis=1).astype(np.int32)


def cross_entropies(logits: Any, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over predicted tokens in float64, and their numbers, by example `[N]` each.

    Args:
      logits: `[N, T, V]`.
      ids: `[N, T]`, -1 where padded.
    """
    x = np.asarray(logits, np.float64)[:, :-1]
    following = ids[:, 1:]
    log_sums = np.log(np.exp(x).sum(axis=-1))
    picked = np.take_along_axis(x, np.maximum(following, 0)[..., None], axis=-1)[..., 0]
    there = following >= 0
    return np.where(there, log_sums - picked, 0.0).sum(axis=1), there.sum(axis=1)
