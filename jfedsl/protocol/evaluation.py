"""Test loss and accuracy of the merged model, under the current masks and without; by class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array, lax

from jfedsl.data.datasets import Pixels
from jfedsl.models import layers
from jfedsl.protocol.aggregation import masks_of, merge_participants
from jfedsl.protocol.state import Data, Scheme, State
from jfedsl.pruning.pruner import keep


class TestSet(struct.PyTreeNode):
    """Padded and folded into batches.

    Attributes:
      images: as in `Split`, `[M, E, ...]`.
      labels: int32 `[M, E]`.
      valid: bool `[M, E]`, False on padding.
    """

    __test__ = False  # not a test class

    images: Array
    labels: Array
    valid: Array


def fold_test_set(images: Any, labels: Any, batch_size: int) -> TestSet:
    """Folds NumPy `images[N, ...]` and `labels[N]` into batches of at most `batch_size`."""
    batch_size = min(batch_size, len(labels))
    batches = -(-len(labels) // batch_size)
    missing = batches * batch_size - len(labels)

    def fold(x: Any) -> Array:
        padded = jnp.concatenate([jnp.asarray(x), jnp.zeros((missing, *x.shape[1:]), x.dtype)])
        return padded.reshape(batches, batch_size, *x.shape[1:])

    valid = jnp.arange(batches * batch_size) < len(labels)
    return TestSet(fold(images), fold(labels), valid.reshape(batches, batch_size))


class Evaluation(struct.PyTreeNode):
    """Mean test loss and accuracy in [0, 1]; dense is without masks. float32 scalars."""

    test_loss: Array
    test_accuracy: Array
    test_accuracy_dense: Array


def evaluate(scheme: Scheme, data: Data, state: State, test: TestSet) -> Evaluation:
    """Evaluates the participants' client-side models, merged by the rule of aggregation.

    No dropout, no quantizer. Where participants differ in their masks or in statistics they keep to
    themselves, the weighted mean over the distinct models.
    """
    clients, share, merged = merge_participants(scheme, data.partition, state)
    local = scheme.statistics == "local"
    stats = clients.stats if local else merged.stats

    def measure(masks: Any, stats: Any) -> Array:
        params = keep(merged.params, masks) + state.server.params
        sums = _class_sums(scheme, data.pixels, params, stats + state.server.stats, test)
        return jnp.sum(sums, axis=1) / jnp.sum(test.valid, dtype=jnp.float32)

    def mean(rows: Array, share: Array) -> Array:
        present = share[:, None] > 0
        return jnp.sum(jnp.where(present, share[:, None] * rows, 0.0), axis=0) / jnp.sum(share)

    if local:
        dense = mean(lax.map(lambda own: measure(None, own), stats), share)
    else:
        dense = measure(None, stats)
    if scheme.pruner is None:
        return Evaluation(dense[0], dense[1], dense[1])
    if local:
        pruned = mean(lax.map(lambda own: measure(*own), (clients.masks, stats)), share)
    else:
        first, share = distinct(scheme, state.participants, share)
        masks = jax.tree.map(lambda m: m[first], clients.masks)
        pruned = mean(lax.map(lambda own: measure(own, stats), masks), share)
    return Evaluation(pruned[0], pruned[1], dense[1])


def distinct(scheme: Scheme, participants: Array, share: Array) -> tuple[Array, Array]:
    """A participant for each mask and the weight of all that share it, at most one each.

    Returns:
      Slots int32 `[V]` and weights float32 `[V]`, 0 for a mask that no participant has.
    """
    assert scheme.pruner is not None
    if scheme.pruner.variant is None or participants.size <= scheme.pruner.variants:
        return jnp.arange(participants.size), share
    own = jnp.asarray(scheme.pruner.variant)[participants]
    member = own[None, :] == jnp.arange(scheme.pruner.variants)[:, None]
    return jnp.argmax(member, axis=1), jnp.sum(jnp.where(member, share[None, :], 0.0), axis=1)


def _class_sums(scheme: Scheme, pixels: Pixels, params: Any, stats: Any, test: TestSet) -> Array:
    """Loss and correct answers of the joined model, summed by class: float32 `[2, classes]`."""

    def batch(one: TestSet) -> Array:
        images = pixels.normalise(one.images)
        logits, _ = layers.apply(scheme.model, params, stats, images, False, scheme.dtype)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, one.labels)
        correct = (jnp.argmax(logits, axis=1) == one.labels).astype(jnp.float32)
        return jnp.stack([_by_class(scheme, values, one) for values in (losses, correct)])

    return jnp.sum(lax.map(batch, test), axis=0)


def _by_class(scheme: Scheme, values: Array, batch: TestSet) -> Array:
    """Sums `values[E]` of the examples of a batch over those of each class, `[classes]`."""
    member = batch.labels[None, :] == jnp.arange(scheme.classes)[:, None]
    return jnp.sum(jnp.where(member & batch.valid[None, :], values[None, :], 0.0), axis=1)


def distinct_models(scheme: Scheme, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Which clients' models differ, were all of them drawn.

    Returns:
      A client of each model, int `[V]`, and the position there of every client's model, int `[C]`.
    """
    everyone = np.arange(scheme.clients)
    if scheme.statistics == "local" and jax.tree.leaves(state.clients.stats):
        return everyone, everyone
    if scheme.pruner is None:
        return everyone[:1], np.zeros_like(everyone)
    if scheme.pruner.variant is None:
        return everyone, everyone
    _, first, model = np.unique(scheme.pruner.variant, return_index=True, return_inverse=True)
    return first, model


def class_accuracies(
    scheme: Scheme, data: Data, key: Array, state: State, test: TestSet, clients: Array
) -> Array:
    """Test accuracy on each class of what clients would use, were all of them drawn.

    Args:
      scheme: of the run.
      data: of the run.
      key: run key.
      state: of the run.
      test: the test set.
      clients: int32 `[V]`, see `distinct_models`.

    Returns:
      float32 `[V, classes]`, NaN for a class without test examples.
    """
    _, _, merged = merge_participants(scheme, data.partition, state)
    examples = jnp.sum(
        lax.map(lambda one: _by_class(scheme, jnp.ones(one.labels.shape), one), test), axis=0
    )

    def one(client: Array) -> Array:
        params = keep(merged.params, masks_of(scheme, key, state, client)) + state.server.params
        stats = merged.stats
        if scheme.statistics == "local":
            stats = jax.tree.map(lambda x: x[client], state.clients.stats)
        sums = _class_sums(scheme, data.pixels, params, stats + state.server.stats, test)
        return sums[1] / examples

    return lax.map(one, clients)
