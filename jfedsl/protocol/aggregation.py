"""Start and end of a period: participants receive model and masks, and send their models back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.compression.message import Message, kept_only, message_bytes
from jfedsl.data.partition import Partition
from jfedsl.keys import Purpose, fold
from jfedsl.models.layers import Variables
from jfedsl.protocol.optimizers import like_moments
from jfedsl.protocol.participants import draw_participants, period_start, put, take
from jfedsl.protocol.state import Aggregator, Client, Scheme, State, copies, weights
from jfedsl.pruning.pruner import Kept


def start_period(scheme: Scheme, key: Array, state: State) -> tuple[State, Array]:
    """Draws the participants and sends them the aggregated model and their masks.

    Returns:
      The state and the bytes sent to each participant, int32 `[K]`.
    """
    ids = draw_participants(scheme, key, state.round)
    clients = _receive(scheme, key, state, ids)
    clients, down = jax.vmap(partial(_download, scheme, key, state.round))(clients)
    clients = put(scheme, state.clients, ids, clients)
    return state.replace(participants=ids, clients=clients), down


def end_period(
    scheme: Scheme, key: Array, partition: Partition, state: State
) -> tuple[State, Array, Array]:
    """Participants upload, the aggregator averages and recomputes the masks.

    Returns:
      The state, with the participants holding the new model and masks for evaluation (they are
      counted as sent when the next period starts), the bytes each one sent, int32 `[K]`, and the
      mean overlap of their masks so far with the new ones.
    """
    ids, before = state.participants, state.aggregator
    clients = take(scheme, state.clients, ids)
    sent, up = jax.vmap(partial(_upload, scheme, key, state))(clients)
    aggregator = merge(scheme, before, sent, weights(scheme, partition, ids))
    kept = jax.tree.map(lambda m: m.any(axis=0), sent.masks)
    pruning = scheme.pruner.update(before.pruning, before.params, aggregator.params, kept)
    aggregator = aggregator.replace(pruning=pruning)
    state = state.replace(aggregator=aggregator, clients=put(scheme, state.clients, ids, sent))
    # The model after this round is pruned with the rate of the next.
    received = _receive(scheme, key, state.replace(round=state.round + 1), ids)
    moved = jnp.mean(jax.vmap(partial(_overlap, scheme))(clients, received))
    return state.replace(clients=put(scheme, state.clients, ids, received)), up, moved


def _overlap(scheme: Scheme, before: Client, after: Client) -> Array:
    """How much of the smaller of two masks of a client is in the other: 1 if nothing moved."""
    chosen = scheme.pruner.chosen
    pairs = list(zip(chosen(before.masks), chosen(after.masks), strict=True))

    def count(arrays: list[Array]) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(x, dtype=jnp.float32) for x in arrays]))

    if not pairs:
        return jnp.ones(())
    one, other = (count([pair[i] for pair in pairs]) for i in (0, 1))
    return count([b & a for b, a in pairs]) / jnp.minimum(one, other)


def _receive(scheme: Scheme, key: Array, state: State, ids: Array) -> Client:
    """The clients `ids[K]` with the aggregated model, its masks and what else is shared."""
    clients, aggregator, count = take(scheme, state.clients, ids), state.aggregator, ids.size
    clients = clients.replace(params=copies(aggregator.params, count))
    if scheme.statistics == "aggregate":
        clients = clients.replace(stats=copies(aggregator.stats, count))
    if scheme.client_optimizer_state == "average":
        clients = clients.replace(optimizer=copies(aggregator.optimizer, count))
    if scheme.client_optimizer_state == "reset":
        fresh = scheme.client_optimizer.init(aggregator.params)
        clients = clients.replace(optimizer=copies(fresh, count))
    return clients.replace(masks=jax.vmap(lambda n: masks_of(scheme, key, state, n))(ids))


def masks_of(scheme: Scheme, key: Array, state: State, client: Array) -> Any:
    """Masks that one client has in the current period, or would have were it drawn."""
    aggregator, key = state.aggregator, fold(key, Purpose.PRUNING)
    start = period_start(scheme, state.round)
    return scheme.pruner.masks(aggregator.pruning, aggregator.params, key, start, client)


def _download(scheme: Scheme, key: Array, round_: Array, client: Client) -> tuple[Client, Array]:
    """One client with the model as it arrives, and the bytes that took.

    Args:
      scheme: of the run.
      key: run key.
      round_: that the period starts with.
      client: with the aggregator's model and new masks.
    """
    whole = _model_bytes(scheme, client, with_masks=True)
    if scheme.links.model_down is None:
        return client, whole
    kept = scheme.pruner.kept(client.masks).params
    link, change, messages = send_tree(
        scheme.links.model_down(client.number),
        client.links.model_down,
        fold(key, Purpose.MODEL_DOWN, round_, client.number),
        jax.tree.map(jnp.subtract, client.params, client.received),
        kept,
    )
    # Who has never received anything gets the weights themselves.
    met = client.drawn > 0
    arrived = jax.tree.map(
        lambda w, old, d: jnp.where(met, old + d, w), client.params, client.received, change
    )
    messages += _side_messages(scheme, client)
    changed = message_bytes(messages, scheme.pruner.mask_bits(client.masks))
    pick = partial(jnp.where, met)
    client = client.replace(
        params=_where_kept(kept, arrived, client.params),
        received=_where_kept(kept, arrived, client.received),
        links=client.links._replace(model_down=jax.tree.map(pick, link, client.links.model_down)),
    )
    return client, jnp.where(met, changed, whole)


def _where_kept(kept: Any, new: Any, old: Any) -> Any:
    return new if kept is None else jax.tree.map(jnp.where, kept, new, old)


def _upload(scheme: Scheme, key: Array, state: State, client: Client) -> tuple[Client, Array]:
    """One client as the aggregator sees it after its upload, and the bytes that took."""
    if scheme.links.model_up is None:
        return client, _model_bytes(scheme, client, with_masks=False)
    received = state.aggregator.params if client.received is None else client.received
    link, update, messages = send_tree(
        scheme.links.model_up(client.number),
        client.links.model_up,
        fold(key, Purpose.MODEL_UP, state.round, client.number),
        jax.tree.map(jnp.subtract, client.params, received),
        scheme.pruner.kept(client.masks).params,
    )
    client = client.replace(
        params=jax.tree.map(jnp.add, received, update),
        links=client.links._replace(model_up=link),
    )
    return client, message_bytes([*messages, *_side_messages(scheme, client)])


def _model_bytes(scheme: Scheme, client: Client, with_masks: bool) -> Array:
    """Bytes of one client's kept weights and whatever else is shared, uncompressed, int32."""
    kept = scheme.pruner.kept(client.masks).params
    messages = _messages(client.params, kept) + _side_messages(scheme, client)
    return message_bytes(messages, scheme.pruner.mask_bits(client.masks) if with_masks else 0)


def _messages(tree: Any, kept: Any) -> list[Message]:
    leaves = jax.tree.leaves(tree)
    masks = [None] * len(leaves) if kept is None else jax.tree.leaves(kept)
    return [kept_only(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)]


def _side_messages(scheme: Scheme, client: Client) -> list[Message]:
    """What travels with the model, uncompressed: statistics and moments, where they are shared."""
    messages = []
    if scheme.statistics == "aggregate":
        messages += _messages(client.stats, scheme.pruner.kept(client.masks).stats)
    if scheme.client_optimizer_state == "average":
        moments, kept = _moments(scheme, client)
        messages += _messages(moments, kept)
    return messages


def _moments(scheme: Scheme, client: Client) -> tuple[list[Array], list[Array]]:
    """The moments of a client's optimizer state and which of their entries it kept."""
    is_moment, kept = _moment_masks(scheme, client, scheme.pruner.kept(client.masks))
    rows = zip(*map(jax.tree.leaves, (is_moment, client.optimizer, kept)), strict=True)
    pairs = [(moment, mask) for flag, moment, mask in rows if flag]
    return [moment for moment, _ in pairs], [mask for _, mask in pairs]


def _moment_masks(scheme: Scheme, client: Client, kept: Kept) -> tuple[Any, Any]:
    """Which leaves of an optimizer state are moments, and which of their entries are kept.

    Of one client or, all with a leading axis, of many.
    """
    optimizer, state = scheme.client_optimizer, client.optimizer
    every = jax.tree.map(lambda _: True, client.params)
    entries = kept.params
    if entries is None:
        entries = jax.tree.map(lambda w: jnp.ones(w.shape, bool), client.params)
    return (
        like_moments(optimizer, state, every, False),
        like_moments(optimizer, state, entries, False),
    )


def _kept_by(scheme: Scheme, clients: Client) -> Kept:
    """What each of many clients has, `[K, ...]`."""
    return jax.vmap(lambda client: scheme.pruner.kept(client.masks))(clients)


def merge(scheme: Scheme, before: Aggregator, clients: Client, weights: Array) -> Aggregator:
    """The weighted mean of the participants' models; statistics and moments where they are shared.

    Each weight is averaged over the participants that kept it and keeps its old value where none
    did. Where changes of the model are sent down, what is averaged are the participants' changes of
    what arrived: what compression did to that stays out of the aggregator's model.

    Args:
      scheme: of the run.
      before: the aggregator as of the last aggregation.
      clients: participants, `[K, ...]`.
      weights: float32 `[K]`.
    """
    kept, params = _kept_by(scheme, clients), clients.params
    if clients.received is not None:
        params = jax.tree.map(
            lambda w, m, r: w[None] + (m - r), before.params, params, clients.received
        )
    after = before.replace(params=weighted_mean(params, weights, kept.params, before.params))
    if scheme.statistics == "aggregate":
        stats = weighted_mean(clients.stats, weights, kept.stats, before.stats)
        after = after.replace(stats=stats)
    if scheme.client_optimizer_state == "average":
        after = after.replace(optimizer=_mean_optimizer(scheme, before, clients, weights, kept))
    return after


def merge_participants(
    scheme: Scheme, partition: Partition, state: State
) -> tuple[Client, Array, Aggregator]:
    """The participants `[K, ...]`, their weights `[K]`, and what merging them now would make."""
    clients = take(scheme, state.clients, state.participants)
    share = weights(scheme, partition, state.participants)
    if clients.received is not None:
        # Between two periods participants hold the aggregator's model itself.
        between = state.round % scheme.aggregate_every == 0
        held = jax.tree.map(partial(jnp.where, between), clients.params, clients.received)
        clients = clients.replace(received=held)
    return clients, share, merge(scheme, state.aggregator, clients, share)


def joined(scheme: Scheme, partition: Partition, state: State) -> Variables:
    """The whole dense model: the participants' client-side parts merged, then the server's.

    Statistics are averaged, also where they otherwise stay with the clients.
    """
    clients, share, merged = merge_participants(scheme, partition, state)
    # Statistics that no participant updated are those it would go on with.
    everyone = weighted_mean(clients.stats, share)
    stats = weighted_mean(clients.stats, share, _kept_by(scheme, clients).stats, everyone)
    return Variables(merged.params + state.server.params, stats + state.server.stats)


def _mean_optimizer(
    scheme: Scheme, before: Aggregator, clients: Client, weights: Array, kept: Kept
) -> Any:
    """Moments averaged as the weights they belong to; of step counts the greatest."""
    is_moment, entries = _moment_masks(scheme, clients, kept)

    def leaf(flag: bool, x: Array, mask: Array, old: Array) -> Array:
        return weighted_mean(x, weights, mask, old) if flag else x.max(axis=0)

    return jax.tree.map(leaf, is_moment, clients.optimizer, entries, before.optimizer)


def weighted_mean(tree: Any, weights: Array, masks: Any = None, old: Any = None) -> Any:
    """Weighted mean over the leading axis, of kept entries only where there are masks.

    Args:
      tree: arrays `[K, ...]`.
      weights: float32 `[K]`.
      masks: None or bool arrays `[K, ...]`.
      old: with masks, the value `[...]` of entries that nobody kept.
    """

    def per_client(x: Array) -> Array:
        return weights.reshape(-1, *(1,) * (x.ndim - 1))

    def plain(x: Array) -> Array:
        return jnp.sum(per_client(x) * x, axis=0) / jnp.sum(weights)

    def masked(x: Array, m: Array, o: Array) -> Array:
        share = jnp.where(m, per_client(x), 0.0)
        total = jnp.sum(share, axis=0)
        mean = jnp.sum(share * x, axis=0) / jnp.where(total > 0, total, 1.0)
        return jnp.where(total > 0, mean, o)

    if masks is None:
        return jax.tree.map(plain, tree)
    return jax.tree.map(masked, tree, masks, old)
