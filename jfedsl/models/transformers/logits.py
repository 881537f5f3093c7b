"""The last layer of a decoder: a score of every token as the next one."""

from flax import linen as nn
from jax import Array

from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.weights import product


class Logits(nn.Module):
    """Products of each position with the vectors of all tokens.

    Attributes:
      vocabulary: number of tokens.
      adapter: what is trained.
    """

    vocabulary: int
    adapter: Adapter

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[B, T, D]`: `[B, T, vocabulary]`."""
        shape = (self.vocabulary, x.shape[-1])
        return product(self, "embedding", shape, self.adapter.form(""), by_column=False, x=x)
