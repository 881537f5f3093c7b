"""The test set, padded and folded into batches."""

from typing import Any

import numpy as np
from flax import struct
from jax import Array
from jax.sharding import PartitionSpec

from jfedsl.sharding.slots import AXES, REPLICATED, SlotLayout


class TestSet(struct.PyTreeNode):
    """Padded and folded into batches.

    Attributes:
      images: as in `Split`, `[M, E, ...]`.
      labels: targets as in `Split`, `[M, E]`, `[M, E, D]` or `[M, E, T]`.
      valid: bool `[M, E]`, False on padding.
      byte_counts: as in `Split`, int32 `[M, E]`, 0 on padding; None where that has none.
    """

    __test__ = False  # not a test class

    images: Array
    labels: Array
    valid: Array
    byte_counts: Array | None = None


def fold_test_set(
    images: Any, labels: Any, batch_size: int, byte_counts: np.ndarray | None = None
) -> TestSet:
    """Folds NumPy `images[N, ...]` and `labels[N, ...]` into batches of at most `batch_size`.

    Args:
      images: as in `Split`.
      labels: likewise.
      batch_size: at most so many examples together.
      byte_counts: as in `Split`.

    Returns:
      Arrays of the host still: nothing is compiled for this.
    """
    batch_size = min(batch_size, len(labels))
    batches = -(-len(labels) // batch_size)
    missing = batches * batch_size - len(labels)

    def fold(x: np.ndarray) -> Any:
        padded = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        return padded.reshape(batches, batch_size, *x.shape[1:])

    valid: Any = np.arange(batches * batch_size) < len(labels)
    counts = None if byte_counts is None else fold(byte_counts)
    return TestSet(fold(images), fold(labels), valid.reshape(batches, batch_size), counts)


def test_spec(test: TestSet, slots: SlotLayout) -> PartitionSpec:
    """How to spread a test set over devices: each batch, if it can be shared evenly."""
    batch_size = test.valid.shape[1]
    return PartitionSpec(None, AXES) if batch_size % slots.devices == 0 else REPLICATED
