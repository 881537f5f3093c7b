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
from jfedsl.engine.exchange import Availability
from jfedsl.engine.exchanges import Exchanges, exchanges
from jfedsl.engine.participants import first_participants, period_start, with_width_config
from jfedsl.engine.period import Draw, deliver, draw_period, end_period, open_period, start_period
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import (
    Aggregator,
    Client,
    Data,
    RunSpec,
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


def init(spec: RunSpec, key: Array, start: Variables, image: Array) -> State:
    """The state before the first round, all clients holding the same model.

    Args:
      spec: of the run.
      key: run key.
      start: parameters and statistics of the whole model.
      image: a normalised sample input; only its shape and dtype matter.
    """
    own, stats = start.params[: spec.cut], start.stats[: spec.cut]
    server = Server(
        start.params[spec.cut :],
        start.stats[spec.cut :],
        spec.server_optimizer.init(start.params[spec.cut :]),
    )
    pruning, slots = spec.pruner.init(own), spec.slots
    fresh, zero = fresh_client(spec, own, stats, image), jnp.zeros((), jnp.int32)
    shared = fresh.optimizer if spec.client_optimizer_state == "average" else None

    def client(number: Array) -> Client:
        masks = spec.pruner.masks(pruning, own, fold(key, Purpose.PRUNING), zero, number)
        return fresh.replace(number=number, masks=masks)

    ids = first_participants(spec)
    places = slots.num_slots
    clients = jax.vmap(client, axis_size=places)(slots.to_slots(ids))
    if spec.server_copies:
        server = slots.shard(copies(server, places))
    return State(
        round=zero,
        server=server,
        aggregator=Aggregator(own, stats, shared, pruning, pruning.replace(scores=None)),
        clients=slots.shard(clients),
        memory=first_memory(spec, fresh),
        participants=ids,
        has_current_model=jnp.ones(spec.participants, bool),
    )


def run_round(
    spec: RunSpec,
    data: Data,
    key: Array,
    state: State,
    exchange_all: Exchanges = exchanges,
    draw: Draw = draw_period,
) -> tuple[State, RoundRecord]:
    """One round: local_steps exchanges, with the start or end of a period where one is due.

    Args:
      spec: of the run.
      data: of the run.
      key: run key.
      state: before the round.
      exchange_all: the exchanges of the round.
      draw: who takes part in a period.
    """
    number, every, slots = state.round, spec.aggregate_every, spec.slots
    state, down, conditions = _begin(spec, key, state, draw)
    availability = _presence(spec, state, conditions)
    start = period_start(spec, number)
    state, records = with_width_config(
        spec, start, partial(exchange_all, spec), data, key, state, availability
    )
    pruned = _pruned(spec, state.clients)
    participants, has_current_model = state.participants, state.has_current_model
    reachable = None if availability is None or conditions is None else conditions.reachable
    state, up, overlap = lax.cond(
        (number + 1) % every == 0,
        lambda s: end_period(spec, key, data.partition, s, reachable),
        lambda s: (s, _nothing(spec), jnp.full(slots.num_slots, -1, jnp.float32)),
        state,
    )
    # What devices know of their participants comes together once a round, not after every step.
    sent = (records.losses.T, records.smashed_up_bytes.T, records.cut_gradient_down_bytes.T)
    sent, up, down, overlap, (lacking, kept) = slots.in_one_message(
        (sent, up, down, overlap, pruned)
    )
    losses, smashed, cut_gradient = (x.T for x in sent)
    share = weights(spec, data.partition, participants)
    record = RoundRecord(
        train_loss=_mean_loss(share, losses, records.arrived, availability),
        losses=losses,
        smashed_up_bytes=smashed,
        cut_gradient_down_bytes=cut_gradient,
        arrived=records.arrived,
        has_current_model=has_current_model,
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
    spec: RunSpec, key: Array, state: State, draw: Draw
) -> tuple[State, Array, Conditions | None]:
    """The state after the model has gone to who awaits it, the bytes of that, the conditions."""

    def now(state: State) -> Conditions:
        return round_conditions(spec, key, state.round, state.participants, state.clients)

    starts, same = state.round % spec.aggregate_every == 0, lambda state: state
    unsent = lambda state: (state, _nothing(spec))  # noqa: E731
    if spec.radio is None or not spec.radio.can_fail:
        start = partial(start_period, spec, key, draw=draw)
        state, down = lax.cond(starts, start, unsent, state)
        return state, down, None if spec.radio is None else now(state)
    state = lax.cond(starts, partial(open_period, spec, key, draw=draw), same, state)
    reachable = now(state).reachable
    send = partial(deliver, spec, key, reachable=reachable)
    state, down = lax.cond(jnp.all(state.has_current_model), unsent, send, state)
    # Who has new masks now may compute faster than before.
    return state, down, now(state).replace(reachable=reachable)


def _presence(spec: RunSpec, state: State, conditions: Conditions | None) -> Availability | None:
    """Who takes part in the round's exchanges; None where nobody can fail to."""
    if spec.radio is None or not spec.radio.can_fail or conditions is None:
        return None
    if not spec.splits:
        # Who holds the model trains, in reach or not.
        conditions = conditions.replace(reachable=jnp.ones_like(conditions.reachable))
    return Availability(state.has_current_model, conditions)


def _mean_loss(
    share: Array, losses: Array, arrived: Array, availability: Availability | None
) -> Array:
    """Weighted mean of who arrived, over the exchanges in which anyone did; 0 without any."""
    if availability is None:
        return jnp.mean(jnp.sum(share[None] * losses, axis=1))
    own = jax.vmap(partial(present_weights, share))(arrived)
    any_ = jnp.any(arrived, axis=1)
    return jnp.sum(own * losses) / jnp.maximum(1, jnp.sum(any_, dtype=jnp.float32))


def _nothing(spec: RunSpec) -> Array:
    """No bytes, for each place."""
    return jnp.zeros(spec.slots.num_slots, jnp.int32)


def _pruned(spec: RunSpec, clients: Client) -> tuple[Array, Array]:
    """What each one lacks of all weights that can be pruned, `[P]`, and has of each layer."""
    pruner = spec.pruner
    if not pruner.names:
        places = spec.slots.num_slots
        return jnp.zeros(places), jnp.zeros((places, 0))

    def one(client: Client) -> tuple[Array, Array]:
        flags = jax.tree.leaves(layers.prunable(client.params, len(spec.model)))
        kept = jax.tree.leaves(pruner.kept(client.masks).params)
        weights = [k for k, flag in zip(kept, flags, strict=True) if flag]
        lacking = jnp.sum(jnp.stack([jnp.sum(~k, dtype=jnp.float32) for k in weights]))
        shares = [jnp.mean(m, dtype=jnp.float32) for m in pruner.prunable_masks(client.masks)]
        return lacking / sum(k.size for k in weights), jnp.stack(shares)

    return jax.vmap(one)(clients)
