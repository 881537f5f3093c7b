"""Start and end of a period: participants receive model and masks, and send their models back."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.compressor import Message, message_bytes, send_tree
from jfedsl.data.partition import Partition
from jfedsl.keys import Purpose, fold
from jfedsl.models.layers import Variables
from jfedsl.protocol.clients import put, take
from jfedsl.protocol.optimizers import like_moments
from jfedsl.protocol.state import Aggregator, Client, Scheme, State, copies, weights


def draw_participants(scheme: Scheme, key: Array, round_: Array) -> Array:
    """K of C clients without replacement, ascending; int32 `[K]`."""
    if scheme.participants == scheme.clients:
        return jnp.arange(scheme.clients, dtype=jnp.int32)
    key = fold(key, Purpose.PARTICIPANTS, round_)
    ids = jax.random.choice(key, scheme.clients, (scheme.participants,), replace=False)
    return jnp.sort(ids.astype(jnp.int32))


def start_period(scheme: Scheme, key: Array, state: State) -> tuple[State, Array]:
    """Draws the participants and sends them the aggregated model and their masks.

    Returns:
      The state and the bytes sent to each participant, int32 `[K]`.
    """
    ids = draw_participants(scheme, key, state.round)
    clients = _receive(scheme, key, state, ids)
    down = jax.vmap(lambda client: _model_bytes(scheme, client, with_masks=True))(clients)
    return state.replace(participants=ids, clients=put(state.clients, ids, clients)), down


def end_period(
    scheme: Scheme, key: Array, partition: Partition, state: State
) -> tuple[State, Array]:
    """Participants upload, the aggregator averages and recomputes the masks.

    Returns:
      The state, with the participants holding the new model and masks for evaluation (they are
      counted as sent when the next period starts), and the bytes each one sent, int32 `[K]`.
    """
    ids, before = state.participants, state.aggregator
    clients = take(state.clients, ids)
    sent, up = jax.vmap(lambda client, n: _upload(scheme, key, state, client, n))(clients, ids)
    aggregator = merge(scheme, before, sent, weights(scheme, partition, ids))
    if scheme.pruner is not None:
        kept = jax.tree.map(lambda m: m.any(axis=0), sent.masks)
        pruning = scheme.pruner.update(before.pruning, before.params, aggregator.params, kept)
        aggregator = aggregator.replace(pruning=pruning)
    state = state.replace(aggregator=aggregator, clients=put(state.clients, ids, sent))
    # The model after this round is pruned with the rate of the next.
    ahead = state.replace(round=state.round + 1)
    return state.replace(clients=put(state.clients, ids, _receive(scheme, key, ahead, ids))), up


def _receive(scheme: Scheme, key: Array, state: State, ids: Array) -> Client:
    """The clients `ids[K]` with the aggregated model, its masks and what else is shared."""
    clients, aggregator, count = take(state.clients, ids), state.aggregator, ids.size
    clients = clients.replace(params=copies(aggregator.params, count))
    if scheme.statistics == "aggregate":
        clients = clients.replace(stats=copies(aggregator.stats, count))
    if scheme.client_optimizer_state == "average":
        clients = clients.replace(optimizer=copies(aggregator.optimizer, count))
    if scheme.client_optimizer_state == "reset":
        fresh = scheme.client_optimizer.init(aggregator.params)
        clients = clients.replace(optimizer=copies(fresh, count))
    if scheme.pruner is not None:
        clients = clients.replace(masks=jax.vmap(lambda n: masks_of(scheme, key, state, n))(ids))
    return clients


def masks_of(scheme: Scheme, key: Array, state: State, client: Array) -> Any:
    """Masks that one client has in the current period, or would have were it drawn.

    None without pruning.
    """
    if scheme.pruner is None:
        return None
    aggregator, key = state.aggregator, fold(key, Purpose.PRUNING)
    start = state.round - state.round % scheme.aggregate_every
    return scheme.pruner.masks(aggregator.pruning, aggregator.params, key, start, client)


def _upload(
    scheme: Scheme, key: Array, state: State, client: Client, number: Array
) -> tuple[Client, Array]:
    """One client as the aggregator sees it after its upload, and the bytes that took."""
    if scheme.links.model_up is None:
        return client, _model_bytes(scheme, client, with_masks=False)
    received = state.aggregator.params
    link, update, messages = send_tree(
        scheme.links.model_up,
        client.links.model_up,
        fold(key, Purpose.MODEL_UP, state.round, number),
        jax.tree.map(jnp.subtract, client.params, received),
        client.masks,
    )
    client = client.replace(
        params=jax.tree.map(jnp.add, received, update),
        links=client.links._replace(model_up=link),
    )
    return client, message_bytes([*messages, *_side_messages(scheme, client)])


def _model_bytes(scheme: Scheme, client: Client, with_masks: bool) -> Array:
    """Bytes of one client's kept weights and whatever else is shared, uncompressed, int32.

    With masks, one bit for every weight that could have been pruned comes along.
    """
    messages = _messages(client.params, client.masks) + _side_messages(scheme, client)
    bitmap = 0
    if with_masks and scheme.pruner is not None:
        bitmap = scheme.pruner.mask_bits
    return message_bytes(messages, bitmap)


def _messages(tree: Any, kept: Any) -> list[Message]:
    leaves = jax.tree.leaves(tree)
    masks = [None] * len(leaves) if kept is None else jax.tree.leaves(kept)
    return [Message(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)]


def _side_messages(scheme: Scheme, client: Client) -> list[Message]:
    """What travels with the model, uncompressed: statistics and moments, where they are shared."""
    messages = []
    if scheme.statistics == "aggregate":
        messages += _messages(client.stats, None)
    if scheme.client_optimizer_state == "average":
        moments, kept = _moments(scheme, client)
        messages += _messages(moments, kept)
    return messages


def _moments(scheme: Scheme, client: Client) -> tuple[list[Array], list[Array]]:
    """The moments of a client's optimizer state and which of their entries it kept."""
    is_moment, kept = _moment_masks(scheme, client)
    rows = zip(*map(jax.tree.leaves, (is_moment, client.optimizer, kept)), strict=True)
    pairs = [(moment, mask) for flag, moment, mask in rows if flag]
    return [moment for moment, _ in pairs], [mask for _, mask in pairs]


def _moment_masks(scheme: Scheme, client: Client) -> tuple[Any, Any]:
    """Which leaves of an optimizer state are moments, and the client's masks in their place."""
    optimizer, state = scheme.client_optimizer, client.optimizer
    every = jax.tree.map(lambda _: True, client.params)
    return (
        like_moments(optimizer, state, every, False),
        like_moments(optimizer, state, _kept_entries(client), False),
    )


def _kept_entries(client: Client) -> Any:
    """A client's masks, all True where it has none."""
    if client.masks is not None:
        return client.masks
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), client.params)


def merge(scheme: Scheme, before: Aggregator, clients: Client, weights: Array) -> Aggregator:
    """The weighted mean of the participants' models; statistics and moments where they are shared.

    Each weight is averaged over the participants that kept it and keeps its old value where none
    did.

    Args:
      scheme: of the run.
      before: the aggregator as of the last aggregation.
      clients: participants, `[K, ...]`.
      weights: float32 `[K]`.
    """
    after = before.replace(
        params=weighted_mean(clients.params, weights, clients.masks, before.params)
    )
    if scheme.statistics == "aggregate":
        after = after.replace(stats=weighted_mean(clients.stats, weights))
    if scheme.client_optimizer_state == "average":
        after = after.replace(optimizer=_mean_optimizer(scheme, before, clients, weights))
    return after


def merge_participants(
    scheme: Scheme, partition: Partition, state: State
) -> tuple[Client, Array, Aggregator]:
    """The participants `[K, ...]`, their weights `[K]`, and what merging them now would make."""
    clients = take(state.clients, state.participants)
    share = weights(scheme, partition, state.participants)
    return clients, share, merge(scheme, state.aggregator, clients, share)


def joined(scheme: Scheme, partition: Partition, state: State) -> Variables:
    """The whole dense model: the participants' client-side parts merged, then the server's.

    Statistics are averaged, also where they otherwise stay with the clients.
    """
    clients, share, merged = merge_participants(scheme, partition, state)
    stats = weighted_mean(clients.stats, share)
    return Variables(merged.params + state.server.params, stats + state.server.stats)


def _mean_optimizer(scheme: Scheme, before: Aggregator, clients: Client, weights: Array) -> Any:
    """Moments averaged as the weights they belong to; of step counts the greatest."""
    is_moment, kept = _moment_masks(scheme, clients)

    def leaf(flag: bool, x: Array, mask: Array, old: Array) -> Array:
        return weighted_mean(x, weights, mask, old) if flag else x.max(axis=0)

    return jax.tree.map(leaf, is_moment, clients.optimizer, kept, before.optimizer)


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
