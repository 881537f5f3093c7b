"""Measurements between two rounds of a run: the objective, its curvature and the constants.

Gradients are those that clients compute, pruned and compressed; the objective f is the loss of the
dense model without compression.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.data import batches
from jfedsl.engine.averaging import joined
from jfedsl.engine.client_step import forward_one, send_gradient
from jfedsl.engine.exchanges import exchanges
from jfedsl.engine.masks import masks_of
from jfedsl.engine.messages import send_activation, send_activation_gradient
from jfedsl.engine.participants import period_start, with_width_config
from jfedsl.engine.state import Client, Data, RunSpec, State, weights, with_data
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
      pairs: number of pairs of mini-batches of every participant, at least 2.
      iterations: of the power iteration.
      examples: for the Hessian, drawn anew each time if there are more. (f and its gradient are
        always those of all examples.)
      block: examples of f computed at once.
    """

    pairs: int = 6
    iterations: int = 12
    examples: int = 512
    block: int = 256


DEFAULT_EFFORT = Effort()


class Objective(NamedTuple):
    """f(v) and ||grad f(v)||^2 over all examples, hence without sampling error."""

    loss: Estimate
    squared_gradient: Estimate


class Measurement(NamedTuple):
    """A measurement at one time of a run.

    Attributes:
      loss: f(v).
      squared_gradient: ||grad f(v)||^2.
      beta: largest curvature of f at v.
      beta_step: the secant of its gradient along a gradient step, without noise.
      beta_taken: the secant along the step that the run takes next, with its noise.
      beta_rise: the least beta with which assumption (A1) holds for that step.
      draws: estimates from mini-batches.
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
    del key  # not needed; the arguments are those of `measure`
    spec = with_data(spec, data)
    mean = joined(spec, data.partition, state)
    return _objective(_point(spec, effort, data, mean.stats, mean.params))


def measure(
    spec: RunSpec, effort: Effort, step_size: float, data: Data, key: Array, state: State
) -> Measurement:
    """Measures the bound's constants between two rounds.

    Memory holds one mini-batch of one client at a time, or one block of f, and about thirty copies
    of the model. The step that the run takes next needs the memory of an exchange.

    Args:
      spec: specification of the run.
      effort: how much to compute.
      step_size: gamma.
      data: training data with its partition.
      key: run key.
      state: between two rounds.
    """
    spec = with_data(spec, data)
    run_key, key = key, fold(key, Purpose.MEASUREMENT, state.round)
    mean = joined(spec, data.partition, state)
    following = after_exchange(spec, data, run_key, state)
    smooth = _smoothness(spec, effort, step_size, data, key, mean, following)
    objective, beta, step, taken, rise_taken = smooth
    ids = state.participants
    share = weights(spec, data.partition, ids)
    clients = spec.slots.to_participants(state.clients)
    # After an average over all clients they hold v, up to rounding, which is no drift; after any,
    # the next step has the masks of the next period.
    drift = spec.algorithm.drift(spec, np.ones(spec.clients))
    holds_v, is_start = (state.round % r == 0 for r in (drift.rounds, spec.aggregate_every))
    masks = jax.vmap(partial(masks_of, spec, run_key, state))(clients.number)
    masks = jax.tree.map(partial(jnp.where, is_start), masks, clients.masks)
    params = mean.params[: spec.cut]
    params = jax.tree.map(partial(jnp.where, holds_v), params, clients.params)
    clients = clients.replace(params=params, masks=masks)

    def draws(forwards: Sequence[ClientForward]) -> Estimates:
        rows = assign_slots(spec.group_sizes).split_groups((clients, share))
        groups = [
            _group(spec, forward, data, state, mean, *row)
            for forward, row in zip(forwards, rows, strict=True)
        ]
        return estimate(groups, mean.params, spec.cut, spec.clients, fold(key, 1), effort.pairs)

    estimates = with_width_config(spec, period_start(spec, state.round), draws)
    return Measurement(*objective, beta, step, taken, rise_taken, estimates)


def after_exchange(spec: RunSpec, data: Data, key: Array, state: State) -> Any:
    """The weights v after the next exchange of the run, with its pruning, compression and noise.

    See `measure` for the arguments.
    """
    once = partial(exchanges, count=1)
    bound_to = with_data(spec, data)
    after, _ = spec.algorithm.run_round(bound_to, data, key, state, exchange_all=once)
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
    """Measures f, its gradient, its largest curvature, and the curvature along two steps from v."""
    part = partial(block_loss, spec, data, mean.stats)
    at = partial(_point, spec, effort, data, mean.stats)
    start, examples = at(mean.params), all_examples(spec, data, effort.block)
    down = jax.tree.map(lambda w, g: w - step_size * g, start.params, start.gradient)
    ends = lax.map(at, _pair(down, following))  # a loop, so that it is compiled once
    gradient_step, taken = _unpair(ends)
    sample = some_examples(examples, fold(key, 0), effort.examples, effort.block)

    def curve(direction: Any) -> Any:
        return over_blocks(
            lambda block: hessian_product(lambda p: part(p, block), mean.params, direction), sample
        )

    beta = largest_curvature(curve, mean.params, fold(key, 0, 1), effort.iterations)
    along = secant(start, gradient_step), secant(start, taken), rise(start, taken)
    return _objective(start), beta, *along


def _point(spec: RunSpec, effort: Effort, data: Data, stats: Any, params: Any) -> Point:
    """The objective f and its gradient at given weights, over all examples."""
    part = partial(block_loss, spec, data, stats)
    examples = all_examples(spec, data, effort.block)
    return Point(params, *over_blocks(lambda b: jax.value_and_grad(part)(params, b), examples))


def _objective(point: Point) -> Objective:
    return Objective(exact(point.loss), exact(inner(point.gradient, point.gradient)))


def _group(
    spec: RunSpec,
    forward: ClientForward,
    data: Data,
    state: State,
    mean: Variables,
    clients: Client,
    share: Array,
) -> Group:
    """The participants of one width, `clients[k, ...]` with aggregation weights `share[k]`."""
    served = partial(spec.algorithm.server_of_client, spec, state)
    all_kept = jax.tree.map(lambda w: jnp.ones(w.shape, bool), mean.params)

    def kept(client: Client) -> Tree:
        client_side = spec.pruner.kept(client.masks).params
        return all_kept if client_side is None else tuple(client_side) + all_kept[spec.cut :]

    def weight(client: Client) -> Tree:
        return tuple(client.params) + tuple(served(client.number).params)

    def draw(client: Client, key: Array) -> Draw:
        images, labels = _batch(spec, data, client.number, fold(key, Purpose.BATCHES))
        filled = jax.tree.map(jnp.where, kept(client), weight(client), mean.params)
        compressed, quantized = _compressed(spec, forward, state, client, images, labels, key)

        def loss(params: Tree, forward: ClientForward | None) -> Array:
            return _loss(spec, forward, state, client, params, images, labels)

        # A loop, so that the dense gradient is compiled once.
        dense = lax.map(lambda p: jax.grad(loss)(p, None), _pair(mean.params, filled))
        at_mean, at_client = _unpair(dense)
        return Draw(
            at_mean=at_mean,
            at_client=at_client,
            pruned=jax.grad(loss)(weight(client), forward),
            compressed=compressed,
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
    return data.pixels.prepare(images), data.labels[indices]


def _loss(
    spec: RunSpec, forward: ClientForward | None, state: State, client: Client, params: Tree,
    images: Array, labels: Array,
) -> Array:  # fmt: skip
    """One client's mean loss: by its forward with its masks, or by the dense layers if None."""
    cut, stats = spec.cut, spec.algorithm.server_of_client(spec, state, client.number).stats
    if forward is None:
        whole = tuple(client.stats) + tuple(stats)
        logits, _ = layers.apply(spec.model, params, whole, images, True, spec.dtype)
    else:
        smashed, _ = forward(params[:cut], client.stats, client.masks, images, True, spec.dtype)
        rest, lengths = spec.model[cut:], layers.lengths_of(spec.model, images)
        logits, _ = layers.apply(rest, params[cut:], stats, smashed, True, spec.dtype, lengths)
    return spec.task.mean_loss(logits, labels)


def _compressed(
    spec: RunSpec,
    forward: ClientForward,
    state: State,
    client: Client,
    images: Array,
    labels: Array,
    key: Array,
) -> tuple[Tree, Tree]:
    """Gradients of an exchange with one client alone, before and after the gradient's quantizers.

    The first has the compressed activation but the exact cut gradient; the second the rest, too.
    """
    key = fold(key, Purpose.EXCHANGE)
    activation, client_vjp, _ = forward_one(spec, forward, client, images, key)
    key = fold(key, client.number)
    rest, held = spec.model[spec.cut :], spec.algorithm.server_of_client(spec, state, client.number)
    lengths = layers.lengths_of(spec.model, images)
    _, message, uplink_vjp = send_activation(spec, client, activation, key, lengths)

    def loss(params: Any, arrived: Array) -> Array:
        logits, _ = layers.apply(rest, params, held.stats, arrived, True, spec.dtype, lengths)
        return spec.task.mean_loss(logits, labels)

    server, at_cut = jax.grad(loss, argnums=(0, 1))(held.params, message.values)
    _, returned = send_activation_gradient(spec, client, at_cut, message.kept, key)
    cut_gradients = _pair(at_cut, returned.values)
    pair = lax.map(lambda g: client_vjp(uplink_vjp(g)[0])[0], cut_gradients)
    compressed, returned_gradient = _unpair(pair)
    _, quantized = send_gradient(spec, client, returned_gradient, key)
    return tuple(compressed) + tuple(server), tuple(quantized) + tuple(server)


def _pair(first: Any, second: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), first, second)


def _unpair(pair: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[0], pair), jax.tree.map(lambda x: x[1], pair)
