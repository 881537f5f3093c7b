"""Federated split learning with pruning, dropout at the cut and quantized gradients.

With all compression off this is parallel split federated learning: one server-side model, updated
at every exchange, and client-side models averaged every I rounds. The scheme follows the abstract
of arXiv 2412.06414.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.engine.client_memory import first_memory, fresh_client
from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.exchange import Presence
from jfedsl.engine.exchanges import Exchanges, exchanges
from jfedsl.engine.participants import first_participants, in_layout, period_start
from jfedsl.engine.period import Draw, deliver, draw_period, end_period, open_period, start_period
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import (
    Aggregator,
    Client,
    Data,
    Scheme,
    Server,
    State,
    copies,
    present_weights,
    weights,
)
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.models.layers import Model, Variables
from jfedsl.wireless.radio import Conditions


def initial_variables(model: Model, key: Array, image: Array) -> Variables:
    """Fresh parameters and statistics of the whole model; they do not depend on the cut."""
    key = fold(key, Purpose.INITIAL_WEIGHTS)
    return jax.jit(lambda k, x: layers.init(model, k, x))(key, image[None])


def init(scheme: Scheme, key: Array, start: Variables, image: Array) -> State:
    """The state before the first round, all clients holding the same model.

    Args:
      scheme: of the run.
      key: run key.
      start: parameters and statistics of the whole model.
      image: a normalised sample input; only its shape and dtype matter.
    """
    own, stats = start.params[: scheme.cut], start.stats[: scheme.cut]
    server = Server(
        start.params[scheme.cut :],
        start.stats[scheme.cut :],
        scheme.server_optimizer.init(start.params[scheme.cut :]),
    )
    pruning, placement = scheme.pruner.init(own), scheme.placement
    fresh, zero = fresh_client(scheme, own, stats, image), jnp.zeros((), jnp.int32)
    shared = fresh.optimizer if scheme.client_optimizer_state == "average" else None

    def client(number: Array) -> Client:
        masks = scheme.pruner.masks(pruning, own, fold(key, Purpose.PRUNING), zero, number)
        return fresh.replace(number=number, masks=masks)

    ids = first_participants(scheme)
    places = placement.places
    clients = jax.vmap(client, axis_size=places)(placement.to_places(ids))
    if scheme.server_copies:
        server = placement.spread(copies(server, places))
    return State(
        round=zero,
        server=server,
        aggregator=Aggregator(own, stats, shared, pruning, pruning.replace(scores=None)),
        clients=placement.spread(clients),
        memory=first_memory(scheme, fresh),
        participants=ids,
        holding=jnp.ones(scheme.participants, bool),
    )


def run_round(
    scheme: Scheme,
    data: Data,
    key: Array,
    state: State,
    exchange_all: Exchanges = exchanges,
    draw: Draw = draw_period,
) -> tuple[State, RoundRecord]:
    """One round: local_steps exchanges, with the start or end of a period where one is due.

    Args:
      scheme: of the run.
      data: of the run.
      key: run key.
      state: before the round.
      exchange_all: the exchanges of the round.
      draw: who takes part in a period.
    """
    number, every, placement = state.round, scheme.aggregate_every, scheme.placement
    state, down, conditions = _begin(scheme, key, state, draw)
    presence = _presence(scheme, state, conditions)
    start = period_start(scheme, number)
    state, records = in_layout(
        scheme, start, partial(exchange_all, scheme), data, key, state, presence
    )
    pruned = _pruned(scheme, state.clients)
    participants, holding = state.participants, state.holding
    reachable = None if presence is None or conditions is None else conditions.reachable
    state, up, overlap = lax.cond(
        (number + 1) % every == 0,
        lambda s: end_period(scheme, key, data.partition, s, reachable),
        lambda s: (s, _nothing(scheme), jnp.full(placement.places, -1, jnp.float32)),
        state,
    )
    # What devices know of their participants comes together once a round, not after every step.
    sent = (records.losses.T, records.smashed_up_bytes.T, records.cut_gradient_down_bytes.T)
    sent, up, down, overlap, (lacking, kept) = placement.in_one_message(
        (sent, up, down, overlap, pruned)
    )
    losses, smashed, cut_gradient = (x.T for x in sent)
    share = weights(scheme, data.partition, participants)
    record = RoundRecord(
        train_loss=_mean_loss(share, losses, records.arrived, presence),
        losses=losses,
        smashed_up_bytes=smashed,
        cut_gradient_down_bytes=cut_gradient,
        arrived=records.arrived,
        holding=holding,
        conditions=conditions,
        model_up_bytes=up,
        model_down_bytes=down,
        participants=participants,
        pruned_fraction=jnp.mean(lacking),
        kept_fractions=jnp.mean(kept, axis=0),
        mask_overlap=jnp.mean(overlap),
    )
    return state.replace(round=number + 1), record


def _begin(
    scheme: Scheme, key: Array, state: State, draw: Draw
) -> tuple[State, Array, Conditions | None]:
    """The state after the model has gone to who awaits it, the bytes of that, the conditions."""

    def now(state: State) -> Conditions:
        return round_conditions(scheme, key, state.round, state.participants, state.clients)

    starts, same = state.round % scheme.aggregate_every == 0, lambda state: state
    unsent = lambda state: (state, _nothing(scheme))  # noqa: E731
    if scheme.radio is None or not scheme.radio.can_fail:
        start = partial(start_period, scheme, key, draw=draw)
        state, down = lax.cond(starts, start, unsent, state)
        return state, down, None if scheme.radio is None else now(state)
    state = lax.cond(starts, partial(open_period, scheme, key, draw=draw), same, state)
    reachable = now(state).reachable
    send = partial(deliver, scheme, key, reachable=reachable)
    state, down = lax.cond(jnp.all(state.holding), unsent, send, state)
    # Who has new masks now may compute faster than before.
    return state, down, now(state).replace(reachable=reachable)


def _presence(scheme: Scheme, state: State, conditions: Conditions | None) -> Presence | None:
    """Who takes part in the round's exchanges; None where nobody can fail to."""
    if scheme.radio is None or not scheme.radio.can_fail or conditions is None:
        return None
    if not scheme.splits:
        # Who holds the model trains, in reach or not.
        conditions = conditions.replace(reachable=jnp.ones_like(conditions.reachable))
    return Presence(state.holding, conditions)


def _mean_loss(share: Array, losses: Array, arrived: Array, presence: Presence | None) -> Array:
    """Weighted mean of who arrived, over the exchanges in which anyone did; 0 without any."""
    if presence is None:
        return jnp.mean(jnp.sum(share[None] * losses, axis=1))
    own = jax.vmap(partial(present_weights, share))(arrived)
    any_ = jnp.any(arrived, axis=1)
    return jnp.sum(own * losses) / jnp.maximum(1, jnp.sum(any_, dtype=jnp.float32))


def _nothing(scheme: Scheme) -> Array:
    """No bytes, for each place."""
    return jnp.zeros(scheme.placement.places, jnp.int32)


def _pruned(scheme: Scheme, clients: Client) -> tuple[Array, Array]:
    """What each one lacks of all weights that can be pruned, `[P]`, and has of each layer."""
    pruner = scheme.pruner
    if not pruner.names:
        places = scheme.placement.places
        return jnp.zeros(places), jnp.zeros((places, 0))

    def one(client: Client) -> tuple[Array, Array]:
        flags = jax.tree.leaves(layers.prunable(client.params, len(scheme.model)))
        kept = jax.tree.leaves(pruner.kept(client.masks).params)
        weights = [k for k, flag in zip(kept, flags, strict=True) if flag]
        lacking = jnp.sum(jnp.stack([jnp.sum(~k, dtype=jnp.float32) for k in weights]))
        shares = [jnp.mean(m, dtype=jnp.float32) for m in pruner.chosen(client.masks)]
        return lacking / sum(k.size for k in weights), jnp.stack(shares)

    return jax.vmap(one)(clients)
