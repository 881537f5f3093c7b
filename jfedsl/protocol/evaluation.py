"""Test loss and accuracy of the merged model, under the current masks and without."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array, lax

from jfedsl.data.datasets import Pixels
from jfedsl.models import layers
from jfedsl.protocol.aggregation import merge
from jfedsl.protocol.clients import take
from jfedsl.protocol.state import Data, Scheme, State, weights
from jfedsl.pruning.pruner import keep


class TestSet(struct.PyTreeNode):
    """Padded and folded into batches.

    Attributes:
      images: uint8 `[M, E, H, W, C]`.
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
    clients = take(state.clients, state.participants)
    share = weights(scheme, data.partition, state.participants)
    merged = merge(scheme, state.aggregator, clients, share)
    local = scheme.statistics == "local"
    stats = clients.stats if local else merged.stats

    def measure(masks: Any, stats: Any) -> Array:
        params = keep(merged.params, masks) + state.server.params
        return _loss_and_accuracy(scheme, data.pixels, params, stats + state.server.stats, test)

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


def _loss_and_accuracy(
    scheme: Scheme, pixels: Pixels, params: Any, stats: Any, test: TestSet
) -> Array:
    """Means over the test set of the joined model, float32 `[2]`."""

    def batch(one: TestSet) -> tuple[Array, Array]:
        images = pixels.normalise(one.images)
        logits, _ = layers.apply(scheme.model, params, stats, images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, one.labels)
        correct = (jnp.argmax(logits, axis=1) == one.labels) & one.valid
        return jnp.sum(jnp.where(one.valid, losses, 0.0)), jnp.sum(correct, dtype=jnp.int32)

    losses, correct = lax.map(batch, test)
    examples = jnp.sum(test.valid, dtype=jnp.float32)
    return jnp.stack([jnp.sum(losses), jnp.sum(correct).astype(jnp.float32)]) / examples
