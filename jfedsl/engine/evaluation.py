"""Test loss and metric of the merged model, with and without its masks; by class."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax

from jfedsl.compression.deployed import Deployed
from jfedsl.compression.message import Message
from jfedsl.data.pixels import Pixels
from jfedsl.engine.averaging import merge_participants
from jfedsl.engine.evaluation_set import TestSet
from jfedsl.engine.masks import trained_masks
from jfedsl.engine.messages import known_masks
from jfedsl.engine.participants import last_round, period_start, with_width_config
from jfedsl.engine.parts import group_cuts, least_cut, tail_of_client, tail_part
from jfedsl.engine.personal import (
    models_differ,
    personal_part,
    shared_part,
    with_local_stats,
    with_shared,
)
from jfedsl.engine.state import Client, Data, RunSpec, Server, State, with_data
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.pruning.auxiliary import of_first_layers
from jfedsl.pruning.cuts import in_layout
from jfedsl.pruning.pruner import ClientForward, dense_forward
from jfedsl.sharding.slots import assign_slots


class Evaluation(struct.PyTreeNode):
    """Means over the test examples, float32 scalars; over tokens where these are predicted.

    Attributes:
      loss: of the task, under the masks; the activation passes the cut as it is.
      metric: of the task, likewise; what `Metric.of_mean` makes of the mean.
      metric_dense: without masks.
      metric_deployed: under the masks, the activation passing its compressors in their
        deterministic form, one example a message: what the split model does in use.
    """

    loss: Array
    metric: Array
    metric_dense: Array
    metric_deployed: Array


def evaluate(spec: RunSpec, key: Array, data: Data, state: State, test: TestSet) -> Evaluation:
    """Evaluates the participants' client-side models, merged by the rule of aggregation.

    No dropout, no quantizer, but for metric_deployed. Where participants differ in masks, in what
    they keep to themselves (statistics, personal layers), or in compressors, the weighted mean over
    the distinct models. (Local statistics of a channel that a client does not have are as old as
    its removal; metric_dense uses them.)
    """
    clients, share, merged, _ = merge_participants(spec, data.partition, state)
    spec, slots = with_data(spec, data, merged), spec.slots
    # A participant that was out of reach, or had an earlier turn, may hold older masks.
    current = partial(trained_masks, spec, key, state)
    clients = clients.replace(masks=jax.vmap(current)(clients.number))
    # All that differs between participants.
    personal = personal_part(spec, clients.params)
    clients = slots.to_participants(
        clients.replace(params=personal, optimizer=None, compressor_states=None, received=None)
    )
    share = slots.to_participants(share)
    differ, server = models_differ(spec), spec.algorithm.server_of(spec, data.partition, state)
    whole, shared = jnp.sum(share), shared_part(spec, merged.params)

    def rates(forward: ClientForward, cut: int, client: Client, spec: RunSpec = spec) -> Array:
        params, stats = with_shared(spec, client.params, shared), client.stats
        client = client.replace(params=params, stats=with_local_stats(spec, stats, merged.stats))
        sums = class_sums(spec, key, data.pixels, forward, cut, client, server, test)
        return _means(spec, sums, test)

    def mean(
        forward: ClientForward, cut: int, clients: Client, share: Array, spec: RunSpec = spec
    ) -> Array:
        rows = lax.map(partial(rates, forward, cut, spec=spec), clients)
        share = share[:, None] / whole
        return jnp.sum(jnp.where(share > 0, share * rows, 0.0), axis=0)

    def pruned(forwards: Sequence[ClientForward]) -> Array:
        total = jnp.zeros(3)
        groups = assign_slots(spec.group_sizes).split_groups((state.participants, share, clients))
        for forward, cut, members, (ids, part, group) in zip(
            forwards, group_cuts(spec), spec.pruner.groups, groups, strict=True
        ):
            if not differ:
                first, part = distinct(_variant(spec), members, ids, part)
                group = jax.tree.map(lambda x, first=first: x[first], group)
            total += mean(forward, cut, group, part)
        return total

    def tested() -> Array:
        return with_width_config(spec, period_start(spec, last_round(state)), pruned)

    if not spec.pruner.names and spec.deployed is not None:
        loss, metric, deployed = tested()
        return _reported(spec, loss, metric, metric, deployed)
    # All layers before the last cut, where cuts differ: without masks every client has them.
    dense = of_first_layers(dense_forward(spec.model[: spec.cut]), spec.cut)
    if spec.cuts is not None:
        dense = in_layout(dense, spec.cuts.layout)
    plain = spec._replace(deployed=None)
    if differ:
        unpruned = mean(dense, spec.cut, clients, share, plain)
    else:
        unpruned = rates(dense, spec.cut, jax.tree.map(lambda x: x[0], clients), plain)
    if not spec.pruner.names:
        return _reported(spec, unpruned[0], unpruned[1], unpruned[1], unpruned[1])
    loss, metric, deployed = tested()
    return _reported(spec, loss, metric, unpruned[1], deployed)


def _means(spec: RunSpec, sums: Array, test: TestSet) -> Array:
    """Means `[3]` of losses and metrics from the sums of `class_sums`."""
    metric = spec.task.metric
    means = jnp.sum(sums, axis=1) / _total(spec, test)
    if metric.by_class:
        means = means.at[1:].set(mean_of_classes(spec, sums[1:], test))
    if metric.by_bytes:
        assert test.byte_counts is not None
        text = jnp.sum(test.byte_counts.astype(jnp.float32))
        means = means.at[1:].set(jnp.sum(sums[1:], axis=1) / text)
    return means


def _total(spec: RunSpec, test: TestSet) -> Array:
    """Test examples, or predicted tokens where these are predicted, a float32 scalar."""
    if spec.task.of_tokens:
        return jnp.sum(class_sizes(spec, test))
    return jnp.sum(test.valid, dtype=jnp.float32)


def _reported(spec: RunSpec, loss: Array, *metrics: Array) -> Evaluation:
    """The evaluation, from the mean loss and the three means of the metric."""
    of_mean = spec.task.metric.of_mean
    return Evaluation(loss, *(metrics if of_mean is None else map(of_mean, metrics)))


def _variant(spec: RunSpec) -> np.ndarray | None:
    """Clients of the same number share masks and compressor, int `[C]`; None when no two do."""
    mask_group = spec.pruner.mask_group
    if mask_group is None or spec.deployed is None:
        return mask_group
    pairs = np.stack([mask_group, spec.deployed.mask_group], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def distinct(
    mask_group: np.ndarray | None, members: np.ndarray, ids: Array, share: Array
) -> tuple[Array, Array]:
    """A participant of a group for each mask and the weight of all that share it.

    Args:
      mask_group: of the pruner.
      members: clients of the group.
      ids: participants of the group, `[k]`.
      share: their weights.

    Returns:
      Slots int32 `[V]` and weights float32 `[V]`, 0 for a mask that no participant has.
    """
    if mask_group is None:
        return jnp.arange(ids.size), share
    variants = np.unique(mask_group[members])
    if ids.size <= variants.size:
        return jnp.arange(ids.size), share
    member = jnp.asarray(mask_group)[ids][None, :] == jnp.asarray(variants)[:, None]
    return jnp.argmax(member, axis=1), jnp.sum(jnp.where(member, share[None, :], 0.0), axis=1)


def class_sums(
    spec: RunSpec, key: Array, pixels: Pixels, forward: ClientForward, cut: int, client: Client,
    server: Server, test: TestSet,
) -> Array:  # fmt: skip
    """Of a client's part with the server's, by class, `[3, classes]`; `[3, 1]` without classes.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      pixels: to normalise inputs with.
      forward: of the client's layers.
      cut: how many layers that computes.
      client: with the averaged model.
      server: the server.
      test: the examples.

    Returns:
      Sums of the losses, of the metric, and of that with the activation as deployed.
    """

    def outputs_of(smashed: Array, lengths: Array | None, deployed: Deployed | None) -> Array:
        of_server, tail = spec.model[cut : len(spec.model) - spec.tail], tail_part(spec, spec.model)
        params, stats = (tail_of_client(spec, kind) for kind in (client.params, client.stats))
        options = False, spec.dtype, lengths
        x = smashed
        if deployed is not None:
            x = _deployed(spec, key, client, x, lengths, deployed.compressor)
        if spec.cuts is not None:
            x = spec.cuts.layout.split(x, cut)
        of_params, of_stats = _behind(spec, cut, client, server)
        x = layers.apply(of_server, of_params, of_stats, x, *options)[0]
        if deployed is not None:
            x = _deployed(spec, key, client, x, lengths, deployed.at_tail, at_tail=True)
        return layers.apply(tail, params, stats, x, *options)[0]

    def batch(one: TestSet) -> Array:
        images = pixels.prepare(one.images)
        smashed, _ = forward(client.params, client.stats, client.masks, images, False, spec.dtype)
        lengths = layers.lengths_of(spec.model, images)
        outputs = outputs_of(smashed, lengths, None)
        losses = spec.task.loss(outputs, one.labels)
        metric = spec.task.metric.of(outputs, one.labels)
        deployed = metric
        if spec.deployed is not None:
            outputs = outputs_of(smashed, lengths, spec.deployed)
            deployed = spec.task.metric.of(outputs, one.labels)
        return jnp.stack([by_class(spec, values, one) for values in (losses, metric, deployed)])

    return jnp.sum(lax.map(batch, test), axis=0)


def _behind(spec: RunSpec, cut: int, client: Client, server: Server) -> tuple[Any, Any]:
    """Parameters and statistics of the layers that the server computes for a client.

    Of those that other clients hold, the average.
    """
    shared, alone = slice(cut, spec.cut), spec.cut - least_cut(spec)
    params = client.params[shared] + server.params[alone:]
    return params, client.stats[shared] + server.stats[alone:]


def class_sizes(spec: RunSpec, test: TestSet) -> Array:
    """Test examples of each class, float32 `[classes]`; `[1]` without classes.

    The number of predicted tokens where tokens are predicted.
    """
    batches = lax.map(lambda one: by_class(spec, jnp.ones(one.valid.shape), one), test)
    return jnp.sum(batches, axis=0)


def mean_of_classes(spec: RunSpec, sums: Array, test: TestSet) -> Array:
    """Mean over the classes that have test examples, from sums `[M, classes]`, as `[M]`."""
    sizes = class_sizes(spec, test)[None, :]
    means = jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1), 0.0)
    return jnp.sum(means, axis=-1) / jnp.sum(sizes > 0, dtype=jnp.float32)


def _deployed(
    spec: RunSpec, key: Array, client: Client, activation: Array, lengths: Array | None,
    compressor_of: Any, at_tail: bool = False,
) -> Array:  # fmt: skip
    """Activations `[E, ...]` as they are received in use, each a message of its own."""
    if compressor_of is None:
        return activation
    compressor, deployed_key = compressor_of(client.number), fold(key, Purpose.DEPLOYED)

    def send(example: Array, lengths: Array | None) -> Array:
        masks = known_masks(spec, client, example, lengths, at_tail)
        _, message = compressor.send(
            compressor.init(example), deployed_key, Message(example, masks)
        )
        return message.values

    each = jax.tree.map(lambda rows: rows[:, None], (activation, lengths))  # a message each
    return jax.vmap(send)(*each)[:, 0]


def by_class(spec: RunSpec, values: Array, batch: TestSet) -> Array:
    """Sums `values[E]` of the examples of a batch over those of each class, `[classes]`.

    Where targets are no classes, over all examples, `[1]`. A value of predicted tokens is their
    mean, and counts once for each.
    """
    weights = spec.task.weights(batch.labels)
    values = values if weights is None else weights * values
    if not spec.task.of_classes:
        return jnp.sum(jnp.where(batch.valid, values, 0.0), keepdims=True)
    member = batch.labels[None, :] == jnp.arange(spec.classes)[:, None]
    return jnp.sum(jnp.where(member & batch.valid[None, :], values[None, :], 0.0), axis=1)
