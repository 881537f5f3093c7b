"""The constants of a run as it stands: gradients as clients compute them, the loss as f has it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.data import batches
from jfedsl.engine.averaging import joined
from jfedsl.engine.client_step import forward_one, send_gradient
from jfedsl.engine.exchanges import exchanges
from jfedsl.engine.masks import masks_of
from jfedsl.engine.participants import period_start, with_width_config
from jfedsl.engine.round import run_round
from jfedsl.engine.state import Client, Data, RunSpec, State, at_deployment, weights
from jfedsl.engine.transmit import send_cut_gradient, send_smashed
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.models.layers import Variables
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.slots import assign_slots
from jfedsl.theory.constants import Draw, Estimates, Group, Tree, estimate
from jfedsl.theory.curvature import Point, hessian_product, largest_curvature, rise, secant
from jfedsl.theory.estimates import Estimate, exact
from jfedsl.theory.objective import all_examples, block_loss, over_blocks, some_examples
from jfedsl.theory.trees import inner


class Effort(NamedTuple):
    """How much a measurement computes.

    Attributes:
      pairs: of mini-batches that every participant draws, at least 2.
      iterations: of the power iteration.
      examples: that the Hessian is of, if there are more, drawn anew each time. (f and its gradient
        are always of all.)
      block: examples of f computed at once.
    """

    pairs: int = 6
    iterations: int = 12
    examples: int = 512
    block: int = 256


DEFAULT_EFFORT = Effort()


class Objective(NamedTuple):
    """f(v) and ||grad f(v)||^2, of all examples and so without error."""

    loss: Estimate
    squared_gradient: Estimate


class Measurement(NamedTuple):
    """What one time of a run tells.

    Attributes:
      loss: as in `Objective`.
      squared_gradient: likewise.
      beta: largest curvature of f at v.
      beta_step: how fast its gradient changes along a step by the gradient, without noise.
      beta_taken: how fast it changes along the step that the run takes next, with all its noise.
      beta_rise: the least beta with which (A1) holds for that step.
      draws: what mini-batches tell.
    """

    loss: Estimate
    squared_gradient: Estimate
    beta: Estimate
    beta_step: Estimate
    beta_taken: Estimate
    beta_rise: Estimate
    draws: Estimates


def measure_objective(
    spec: RunSpec, effort: Effort, data: Data, key: Array, state: State
) -> Objective:
    """Measures f and its gradient between two rounds; see `measure` for the arguments."""
    del key
    mean = joined(spec, data.partition, state)
    return _objective(_point(spec, effort, data, mean.stats, mean.params))


def measure(
    spec: RunSpec, effort: Effort, step_size: float, data: Data, key: Array, state: State
) -> Measurement:
    """Measures the bound's constants between two rounds.

    Memory holds one mini-batch of one client at a time, or one block of f, and some thirty copies
    of the model; for the step that the run takes next, an exchange of all participants.

    Args:
      spec: of the run.
      effort: how much to compute.
      step_size: gamma.
      data: of the run.
      key: run key.
      state: of the run.
    """
    run_key, key = key, fold(key, Purpose.MEASUREMENT, state.round)
    mean = joined(spec, data.partition, state)
    following = after_exchange(spec, data, run_key, state)
    smooth = _smoothness(spec, effort, step_size, data, key, mean, following)
    objective, beta, step, taken, needed = smooth
    ids = state.participants
    share = weights(spec, data.partition, ids)
    clients = spec.slots.to_participants(state.clients)
    # Between two periods everybody holds v, whose rounding is no drift, and steps under new masks.
    between = state.round % spec.aggregate_every == 0
    masks = jax.vmap(partial(masks_of, spec, run_key, state))(clients.number)
    due = (mean.params[: spec.cut], masks)
    params, masks = jax.tree.map(partial(jnp.where, between), due, (clients.params, clients.masks))
    clients = clients.replace(params=params, masks=masks)

    def draws(forwards: Sequence[ClientForward]) -> Estimates:
        rows = assign_slots(spec.group_sizes).split_groups((clients, share))
        groups = [
            _group(spec, form, data, state, mean, *row)
            for form, row in zip(forwards, rows, strict=True)
        ]
        own = fold(key, 1)
        return estimate(groups, mean.params, spec.cut, spec.clients, own, effort.pairs)

    found = with_width_config(spec, period_start(spec, state.round), draws)
    return Measurement(*objective, beta, step, taken, needed, found)


def after_exchange(spec: RunSpec, data: Data, key: Array, state: State) -> Any:
    """The weights v after the next exchange, as the run takes it: pruned, compressed, with noise.

    See `measure` for the arguments.
    """
    once = partial(exchanges, count=1)
    after, _ = run_round(at_deployment(spec, data), data, key, state, exchange_all=once)
    return joined(spec, data.partition, after).params


def _smoothness(
    spec: RunSpec,
    effort: Effort,
    step_size: float,
    data: Data,
    key: Array,
    mean: Variables,
    following: Any,
) -> tuple[Objective, Estimate, Estimate, Estimate, Estimate]:
    """Measures f, its gradient, its largest curvature, and what two steps from v show of it."""
    part = partial(block_loss, spec, data, mean.stats)
    at = partial(_point, spec, effort, data, mean.stats)
    start, every = at(mean.params), all_examples(spec, data, effort.block)
    down = jax.tree.map(lambda w, g: w - step_size * g, start.params, start.gradient)
    ends = lax.map(at, _pair(down, following))  # a loop, so that it is compiled once
    gradient_step, taken = _parted(ends)
    some = some_examples(every, fold(key, 0), effort.examples, effort.block)

    def curve(direction: Any) -> Any:
        return over_blocks(
            lambda block: hessian_product(lambda p: part(p, block), mean.params, direction), some
        )

    beta = largest_curvature(curve, mean.params, fold(key, 0, 1), effort.iterations)
    along = secant(start, gradient_step), secant(start, taken), rise(start, taken)
    return _objective(start), beta, *along


def _point(spec: RunSpec, effort: Effort, data: Data, stats: Any, params: Any) -> Point:
    """The objective f and its gradient at these weights, of all examples."""
    part = partial(block_loss, spec, data, stats)
    every = all_examples(spec, data, effort.block)
    return Point(params, *over_blocks(lambda b: jax.value_and_grad(part)(params, b), every))


def _objective(point: Point) -> Objective:
    return Objective(exact(point.loss), exact(inner(point.gradient, point.gradient)))


def _group(
    spec: RunSpec,
    form: ClientForward,
    data: Data,
    state: State,
    mean: Variables,
    clients: Client,
    share: Array,
) -> Group:
    server = state.server.params
    everything = jax.tree.map(lambda w: jnp.ones(w.shape, bool), mean.params)

    def kept(client: Client) -> Tree:
        own = spec.pruner.kept(client.masks).params
        return everything if own is None else tuple(own) + everything[spec.cut :]

    def weight(client: Client) -> Tree:
        return tuple(client.params) + tuple(server)

    def draw(client: Client, key: Array) -> Draw:
        images, labels = _batch(spec, data, client.number, fold(key, Purpose.BATCHES))
        present = jax.tree.map(jnp.where, kept(client), weight(client), mean.params)
        sent, quantized = _sent(spec, form, state, client, images, labels, key)

        def loss(params: Tree, own: ClientForward | None) -> Array:
            return _loss(spec, own, state, client, params, images, labels)

        # A loop, so that what both have in common is compiled once.
        dense = lax.map(lambda p: jax.grad(loss)(p, None), _pair(mean.params, present))
        at_mean, own = _parted(dense)
        return Draw(
            at_mean=at_mean,
            own=own,
            pruned=jax.grad(loss)(weight(client), form),
            sent=sent,
            quantized=quantized,
        )

    return Group(clients, share, draw, kept, weight)


def _batch(spec: RunSpec, data: Data, number: Array, key: Array) -> tuple[Array, Array]:
    indices = batches.draw(
        key, data.partition, number, jnp.int32(0), spec.batch_size, "replacement"
    )
    images = data.images[indices]
    if spec.augment is not None:
        images = spec.augment(fold(key, Purpose.AUGMENTATION), images)
    return data.pixels.normalise(images), data.labels[indices]


def _loss(
    spec: RunSpec,
    form: ClientForward | None,
    state: State,
    client: Client,
    params: Tree,
    images: Array,
    labels: Array,
) -> Array:
    """One client's loss; as it computes with its masks, or with all weights."""
    cut, stats = spec.cut, state.server.stats
    if form is None:
        whole = tuple(client.stats) + tuple(stats)
        logits, _ = layers.apply(spec.model, params, whole, images, True, spec.dtype)
    else:
        smashed, _ = form(params[:cut], client.stats, client.masks, images, True, spec.dtype)
        logits, _ = layers.apply(spec.model[cut:], params[cut:], stats, smashed, True, spec.dtype)
    return jnp.mean(spec.task.loss(logits, labels))


def _sent(
    spec: RunSpec,
    form: ClientForward,
    state: State,
    client: Client,
    images: Array,
    labels: Array,
    key: Array,
) -> tuple[Tree, Tree]:
    """Gradients of one client alone in an exchange, before and after the gradient's quantizers."""
    key = fold(key, Purpose.EXCHANGE)
    activation, back, _ = forward_one(spec, form, client, images, key)
    key = fold(key, client.number)
    _, message, uplink_vjp = send_smashed(spec, client, activation, key)

    def loss(params: Any, arrived: Array) -> Array:
        logits, _ = layers.apply(
            spec.model[spec.cut :], params, state.server.stats, arrived, True, spec.dtype
        )
        return jnp.mean(spec.task.loss(logits, labels))

    server, at_cut = jax.grad(loss, argnums=(0, 1))(state.server.params, message.values)
    _, returned = send_cut_gradient(spec, client, at_cut, message.kept, key)
    own = lax.map(lambda g: back(uplink_vjp(g)[0])[0], _pair(at_cut, returned.values))
    plain, rough = _parted(own)
    _, quantized = send_gradient(spec, client, rough, key)
    return tuple(plain) + tuple(server), tuple(quantized) + tuple(server)


def _pair(one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), one, other)


def _parted(pair: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[0], pair), jax.tree.map(lambda x: x[1], pair)
