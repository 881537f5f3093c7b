"""What averaging makes of clients' models, statistics and optimizer states."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jfedsl.data.partition import Partition
from jfedsl.engine.adapter_averaging import (
    AdapterRule,
    relative_error,
    with_products,
    with_truncated_products,
    without_products,
    zero_padded,
)
from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.parts import whole_model
from jfedsl.engine.personal import personal_part, shared_part, with_shared
from jfedsl.engine.server_copy import ServerCopy, server_copy
from jfedsl.engine.state import Aggregator, Client, RunSpec, State, present_weights, weights
from jfedsl.models.layers import Variables
from jfedsl.pruning.pruner import Kept
from jfedsl.sharding.collectives import sum_rows


def moment_masks(spec: RunSpec, client: Client, kept: Kept) -> tuple[Any, Any]:
    """Which leaves of an optimizer state are moments, and which of their entries are kept.

    Of one client or, all with a leading axis, of many.
    """
    optimizer, state = spec.client_optimizer, client.optimizer
    every = jax.tree.map(lambda _: True, client.params)
    entries = kept.params
    if entries is None:
        entries = jax.tree.map(lambda w: jnp.ones(w.shape, bool), client.params)
    return (
        like_moments(optimizer, state, every, False),
        like_moments(optimizer, state, entries, False),
    )


def kept_by(spec: RunSpec, clients: Client) -> Kept:
    """What each of many clients has, `[P, ...]`."""
    return jax.vmap(lambda client: spec.pruner.kept(client.masks))(clients)


def merge(
    spec: RunSpec, before: Aggregator, clients: Client, weights: Array, params: Any = None,
    copy: ServerCopy | None = None,
) -> Aggregator:  # fmt: skip
    """The weighted mean of the participants' models; statistics and optimizer states if shared.

    Each weight is averaged over the participants that kept it and keeps its old value where none
    did. Where changes of the model are sent down, what is averaged are the participants' changes of
    what arrived: what compression did to that stays out of the aggregator's model. What is personal
    stays as it is there.

    Args:
      spec: functions and static numbers of the run.
      before: the aggregator as of the last aggregation.
      clients: participants, `[P, ...]`.
      weights: float32 `[P]`.
      params: the mean of the models, where it is known already.
      copy: what the server has of these layers; None: nothing.
    """
    kept, mesh = kept_by(spec, clients), spec.slots.mesh
    if params is None and spec.adapters is not None:
        after = _with_adapters(spec, spec.adapters, before, clients, weights, kept)
    else:
        after = before.replace(params=params)
        if params is None:
            rows, beside = _sent_params(spec, before, clients), copy and (copy.params, copy.weights)
            old, masks = (shared_part(spec, tree) for tree in (before.params, kept.params))
            mean = weighted_mean(rows, weights, masks, old, mesh, beside)
            after = before.replace(params=with_shared(spec, before.params, mean))
    if spec.statistics == "aggregate":
        beside = copy and (copy.stats, copy.weights)
        rows, masks, old = (
            shared_part(spec, tree) for tree in (clients.stats, kept.stats, before.stats)
        )
        stats = weighted_mean(rows, weights, masks, old, mesh, beside)
        after = after.replace(stats=with_shared(spec, before.stats, stats))
    if spec.client_optimizer_state == "average":
        after = after.replace(optimizer=_mean_optimizer(spec, before, clients, weights, kept))
    return after


def _sent_params(spec: RunSpec, before: Aggregator, clients: Client) -> Any:
    """What the aggregator averages of clients, `[P, ...]`."""
    old, new = (shared_part(spec, tree) for tree in (before.params, clients.params))
    if clients.received is None:
        return new
    return jax.tree.map(lambda w, m, r: w[None] + (m - r), old, new, clients.received)


def _with_adapters(
    spec: RunSpec, rule: AdapterRule, before: Aggregator, clients: Client, weights: Array,
    kept: Kept,
) -> Aggregator:  # fmt: skip
    """The aggregator with the mean of models that have low-rank adapters; see `merge`."""
    old, masks = (shared_part(spec, tree) for tree in (before.params, kept.params))
    rows = zero_padded(_sent_params(spec, before, clients), masks)
    mean = weighted_mean(rows, weights, None, old, spec.slots.mesh)
    if rule.stacks:
        kernels = with_products(before.kernels, rows, weights, rule.scale)
        return before.replace(params=without_products(mean), kernels=kernels)
    if rule.kind == "svd":
        mean = with_truncated_products(mean, old, rows, weights)
    after = before.replace(params=with_shared(spec, before.params, mean))
    if rule.reports_error:
        after = after.replace(adapter_error=relative_error(mean, rows, masks, weights))
    return after


def merging_weights(spec: RunSpec, partition: Partition, state: State) -> tuple[Array, Array]:
    """Weights of the participants in the merged model.

    Returns:
      Two arrays `[K]`. First: the weights of participants that hold the current model, or of all
      participants if none holds it. Second: the same, but 0 for all if none holds it.
    """
    share = weights(spec, partition, state.participants)
    if spec.radio is None or not spec.radio.can_fail:
        return share, share
    present = present_weights(share, state.has_current_model)
    return jnp.where(jnp.any(state.has_current_model), present, share), present


def merge_participants(
    spec: RunSpec, partition: Partition, state: State
) -> tuple[Client, Array, Aggregator, ServerCopy | None]:
    """The participants `[P, ...]`, their weights `[P]`, and what merging them now would make.

    A participant without the model of the period has no weight, unless none has it. Last, what the
    server adds to the average.
    """
    clients, holds = state.clients, state.has_current_model
    share, present = map(spec.slots.weights, merging_weights(spec, partition, state))
    of_all = weights(spec, partition, state.participants)
    copy = server_copy(spec, state.server, of_all, holds, holds)
    if clients.received is not None:
        # Between two periods participants hold the aggregator's model itself.
        between = state.round % spec.aggregate_every == 0
        params = shared_part(spec, clients.params)
        held = jax.tree.map(partial(jnp.where, between), params, clients.received)
        clients = clients.replace(received=held)
    if spec.adapters is None:
        merged = merge(spec, state.aggregator, clients, present, copy=copy)
        return clients, share, merged, copy
    # Between two periods participants hold the factors that the average made, each of its rank.
    # Their average would not be these factors again.
    merged = jax.lax.cond(
        state.round % spec.aggregate_every == 0,
        lambda before, clients, present: before,
        partial(merge, spec),
        state.aggregator, clients, present,
    )  # fmt: skip
    return clients, share, merged, copy


def joined(spec: RunSpec, partition: Partition, state: State) -> Variables:
    """The whole dense model: the participants' client-side parts merged, then the server's.

    What otherwise stays with clients is averaged too: statistics, and personal layers.
    """
    clients, share, merged, copy = merge_participants(spec, partition, state)
    # Statistics that no participant updated are those it would go on with.
    kept, mesh = kept_by(spec, clients).stats, spec.slots.mesh
    of_all = weighted_mean(clients.stats, share, mesh=mesh)
    beside = copy and (copy.stats, copy.weights)
    stats = weighted_mean(clients.stats, share, kept, of_all, mesh, beside)
    server = spec.algorithm.server_of(spec, partition, state)
    params = merged.params
    if spec.personal is not None:
        of_clients = weighted_mean(personal_part(spec, clients.params), share, mesh=mesh)
        params = with_shared(spec, of_clients, shared_part(spec, params))
    pairs = (params, server.params), (stats, server.stats)
    return Variables(*(whole_model(spec, *pair) for pair in pairs))


def _mean_optimizer(
    spec: RunSpec, before: Aggregator, clients: Client, weights: Array, kept: Kept
) -> Any:
    """Moments averaged as the weights they belong to, and a step counter that fits them.

    After t steps a moment is too small by the factor 1 - beta^t, and Adam divides by that. Where
    client n has weight a_n and has taken t_n steps (these differ after outages), the mean of the
    moments is too small by sum_n a_n (1 - beta^t_n). The counter that fits is the t with
    beta^t = sum_n a_n beta^t_n. The two moments share one counter and have different betas; but for
    both, t is close to the weighted mean of t_n: below it by about -ln(beta) / 2 times their
    variance. So the counter is that mean, rounded to the nearest whole number. With the greatest
    t_n the corrected moments would stay too small.

    Clients begin a period with the aggregator's counter. The steps since then are what is averaged:
    float32 holds them exactly however long the run is.
    """
    is_moment, entries = moment_masks(spec, clients, kept)
    flags, structure = jax.tree.flatten(is_moment)
    every = (clients.optimizer, entries, before.optimizer)
    rows = list(zip(flags, *map(jax.tree.leaves, every), strict=True))
    leaves = [x if flag else (x - old).astype(jnp.float32) for flag, x, _, old in rows]
    masks = [mask if flag else jnp.ones(x.shape, bool) for flag, x, mask, _ in rows]
    olds = [old if flag else jnp.zeros(old.shape, jnp.float32) for flag, _, _, old in rows]
    means = weighted_mean(leaves, weights, masks, olds, spec.slots.mesh)
    averaged = [
        mean if flag else old + jnp.rint(mean).astype(old.dtype)
        for (flag, *_, old), mean in zip(rows, means, strict=True)
    ]
    return jax.tree.unflatten(structure, averaged)


def weighted_mean(
    tree: Any, weights: Array, masks: Any = None, old: Any = None, mesh: Mesh | None = None,
    beside: tuple[Any, Any] | None = None,
) -> Any:  # fmt: skip
    """Weighted mean over the leading axis, of kept entries only where there are masks.

    Args:
      tree: arrays `[P, ...]`.
      weights: float32 `[P]`.
      masks: None or bool arrays `[P, ...]`.
      old: the value `[...]` of entries that nobody kept; without masks, of all entries where all
        weights are 0.
      mesh: of devices that the leading axis is spread over; None for one.
      beside: by layer, values `[...]` of one more entry of the average, () for none, and its
        weight; only with masks.
    """

    def shares(x: Array) -> Array:
        return weights.reshape(-1, *(1,) * (x.ndim - 1))

    def product(share: Array, x: Array) -> Array:
        return jnp.where(share > 0, share * x, 0.0)  # padding slots may hold anything

    def mean(x: Array, whole: Array, o: Array) -> Array:
        return jnp.where(whole > 0, x / jnp.where(whole > 0, whole, 1.0), o)

    if masks is None:
        products = jax.tree.map(lambda x: product(shares(x), x), tree)
        sums, whole = sum_rows(mesh, (products, weights))
        if old is None:
            return jax.tree.map(lambda x: x / whole, sums)
        return jax.tree.map(lambda x, o: mean(x, whole, o), sums, old)
    kept = jax.tree.map(lambda x, m: jnp.where(m, shares(x), 0.0), tree, masks)
    sums, wholes = sum_rows(mesh, (jax.tree.map(product, kept, tree), kept))
    if beside is not None:
        sums, wholes = _with_entry(sums, wholes, *beside)
    return jax.tree.map(mean, sums, wholes, old)


def _with_entry(sums: Any, wholes: Any, values: Any, weights: Any) -> tuple[Any, Any]:
    """Sums of products and of weights, by layer, with one more entry of an average."""
    layers = [
        (sum_, whole)
        if not jax.tree.leaves(value)
        else (
            jax.tree.map(lambda x, v, w=weight: x + w * v, sum_, value),
            jax.tree.map(lambda x, w=weight: x + w, whole),
        )
        for sum_, whole, value, weight in zip(sums, wholes, values, weights, strict=True)
    ]
    return tuple(pair[0] for pair in layers), tuple(pair[1] for pair in layers)
