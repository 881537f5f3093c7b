"""The server's side of an exchange: it steps on all activations, on each in turn, or in copies.

Every step takes the exchange, the server, what arrived, and the targets `[P, B, ...]`. It returns
the server after the step, each participant's mean loss before it `[P]`, and the gradient of each
participant's own mean loss at what arrived from it, `[P, B, ...]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jfedsl.engine.auxiliary import map_layers
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.parts import server_part
from jfedsl.engine.server_layers import mean_of_served, run_layers
from jfedsl.engine.state import RunSpec, Server
from jfedsl.engine.transmit import Uplink
from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.sharding.slots import REPLICATED, SHARDED, SlotLayout, where_rows

# From the gradients of participants' own mean losses at what the server's layers made,
# `[P, B, ...]`, to the server after its step, and the gradients at what arrived.
ServerBackward = Callable[[Array], tuple[Server, Array]]
# From the exchange, the server, what arrived and labels to the server, losses and gradients.
ServerStep = Callable[[Exchange, Server, Uplink, Array], tuple[Server, Array, Array]]

_LEAST_WEIGHT = 1e-15


def joint_step(
    x: Exchange, server: Server, received: Uplink, labels: Array
) -> tuple[Server, Array, Array]:
    """Steps on the weighted mean loss of what arrived, as one batch with one set of weights.

    Where nothing arrived the server stays as it was.
    """
    outputs, server_backward = server_forward(x, server, received)
    losses, gradient = output_losses(x, outputs, labels)
    server, cut_gradient = server_backward(gradient)
    return server, losses, cut_gradient


def output_losses(x: Exchange, outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Losses of the model's outputs `[P, B, ...]`, whoever computed them.

    Args:
      x: the exchange.
      outputs: of the last layer.
      labels: targets, `[P, B, ...]`.

    Returns:
      Each participant's mean loss `[P]`, and its gradient at the outputs, `[P, B, ...]`.
    """
    losses, gradient = jax.vmap(jax.value_and_grad(x.spec.task.mean_loss))(outputs, labels)
    return losses, x.spec.slots.shard(gradient)


def server_forward(x: Exchange, server: Server, received: Uplink) -> tuple[Array, ServerBackward]:
    """Runs the server's layers on all that arrived, as one batch with one set of weights.

    Args:
      x: the exchange.
      server: before the exchange.
      received: what arrived of the participants' activations.

    Returns:
      What the layers made, `[P, B, ...]`, and `server_backward`. It steps on the weighted mean of
      the participants' losses, in each layer of those that the server computed there; where
      nothing arrived a layer stays as it was.
    """
    spec, slots = x.spec, x.spec.slots
    # Batch norm needs all at once, without the padding slots, and layers that activations from
    # several cuts join need these group by group.
    normalises, whole = bool(jax.tree.leaves(server.stats)), slots.is_real.all()
    joint = normalises and (not whole or (slots.mesh is not None and spec.cuts is not None))
    enter, leave = (slots.to_participants, slots.to_slots) if joint else (_real_rows(slots), _same)
    rows = spec.group_sizes if joint else slots.group_slots
    run: Callable[..., tuple[Array, Any]] = partial(run_layers, spec, rows)
    params: Any = server.params
    unravel: Callable[[Any], Any] = _same
    if slots.mesh is not None and not normalises:
        # Each device passes its own. The gradients of the parameters are summed over devices, in
        # one message, as they are one array.
        params, unravel = ravel_pytree(server.params)
        of_tree = run
        run = jax.shard_map(
            lambda params, *rest: of_tree(unravel(params), *rest),
            mesh=slots.mesh, in_specs=(REPLICATED, REPLICATED, SHARDED, SHARDED),
            out_specs=(SHARDED, REPLICATED), check_vma=False,
        )  # fmt: skip
    arrived, lengths = enter((received.values, received.lengths))
    outputs, back, stats = jax.vjp(
        lambda params, smashed: run(params, server.stats, smashed, lengths),
        params, arrived, has_aux=True,
    )  # fmt: skip

    def server_backward(gradient: Array) -> tuple[Server, Array]:
        share = received.weights if joint else slots.weights(received.weights)
        of_server, cut_gradient = _backward(server, back, share, enter(gradient))
        of_server, served = mean_of_served(spec, received.weights, unravel(of_server))
        after = _stepped(spec, x.step, server, of_server, stats, served)
        if received.arrived is not None:
            after = jax.tree.map(partial(jnp.where, jnp.any(received.arrived)), after, server)
        return slots.replicate(after), slots.shard(leave(cut_gradient))

    return slots.shard(leave(outputs)), server_backward


def _backward(server: Server, back: Any, weights: Array, gradient: Array) -> tuple[Any, Array]:
    """The gradient of the mean loss by weights `[n]`, and those of each loss at its activation.

    Args:
      server: before the step.
      back: from the gradient of a sum of all losses to those of parameters and activations.
      weights: `[n]`.
      gradient: of the sum of all losses, at what each client's activation led to, `[n, ...]`.
    """

    def by_client(rows: Array) -> Array:
        return weights.reshape(-1, *(1,) * (rows.ndim - 1))

    # One backward pass serves the server's weighted mean and every client's own loss. A weight of
    # 0 becomes one too small to be seen in a sum of float32, and large enough to divide by.
    weights = jnp.maximum(weights, _LEAST_WEIGHT)
    of_server, cut_gradient = back(by_client(gradient) * gradient)
    if jax.tree.leaves(server.stats):
        # Batch norm makes every loss depend on every client's activation: no division undoes that.
        return of_server, back(gradient)[1]
    return of_server, cut_gradient / by_client(cut_gradient)


def _real_rows(slots: SlotLayout) -> Callable[[Any], Any]:
    """Makes rows of padding slots, which may hold anything, 0."""
    if slots.is_real.all():
        return _same
    real = jnp.asarray(slots.is_real)
    return lambda rows: where_rows(real, rows, jax.tree.map(jnp.zeros_like, rows))


def _same(rows: Any) -> Any:
    return rows


def _stepped(
    spec: RunSpec, step: Array, server: Server, gradient: Any, stats: Any, kept: Any = None
) -> Server:
    params, optimizer = masked_step(
        spec.server_optimizer, kept, gradient, server.optimizer, server.params, step
    )
    return Server(params, stats, optimizer)


class Examples(NamedTuple):
    """What the server trains on, of one or many clients with a leading axis.

    Attributes:
      smashed: activations `[B, ...]`.
      labels: targets `[B, ...]`.
      lengths: positions of each example that are no padding, `[B]`; None without padding.
    """

    smashed: Array
    labels: Array
    lengths: Array | None


def _alone(
    spec: RunSpec, step: Array, server: Server, examples: Examples
) -> tuple[Server, Array, Array]:
    """A step on one client's examples `[B, ...]`."""
    model, options = server_part(spec, spec.model), (True, spec.dtype, examples.lengths)

    def loss(params: Any, smashed: Array) -> tuple[Array, Any]:
        outputs, stats = layers.apply(model, params, server.stats, smashed, *options)
        return spec.task.mean_loss(outputs, examples.labels), stats

    slope = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, stats), (gradient, cut_gradient) = slope(server.params, examples.smashed)
    return _stepped(spec, step, server, gradient, stats), value, cut_gradient


def serving_order(spec: RunSpec, key: Array) -> Array:
    """The order in which the server steps on participants, int32 `[K]`: their positions.

    Args:
      spec: functions and static numbers of the run.
      key: of an exchange.
    """
    # No client has the number C.
    return jax.random.permutation(fold(key, spec.clients, Stage.SERVER_ORDER), spec.participants)


def step_in_turn(
    x: Exchange, server: Server, received: Uplink, labels: Array
) -> tuple[Server, Array, Array]:
    """Steps on one client's activation after the other, in random order."""
    spec, slots, order = x.spec, x.spec.slots, serving_order(x.spec, x.key)
    # There is one server: it serves every client, wherever the client's slot is.
    rows = slots.to_participants(Examples(received.values, labels, received.lengths))

    def one(server: Server, n: Array) -> tuple[Server, tuple[Array, Array]]:
        examples = jax.tree.map(lambda row: row[n], rows)
        after, loss, gradient = _alone(spec, x.step, server, examples)
        if received.arrived is not None:
            after = jax.tree.map(partial(jnp.where, received.arrived[n]), after, server)
        return after, (loss, gradient)

    server, served = lax.scan(one, server, order)
    as_participants = jnp.argsort(order)
    losses, cut_gradient = slots.to_slots(jax.tree.map(lambda r: r[as_participants], served))
    return server, losses, slots.shard(cut_gradient)


def step_copies(
    x: Exchange, server: Server, received: Uplink, labels: Array
) -> tuple[Server, Array, Array]:
    """Steps each participant's own copy of the server's part, `[P, ...]`."""
    slots, examples = x.spec.slots, Examples(received.values, labels, received.lengths)
    after, losses, cut_gradient = map_layers(x, partial(_alone, x.spec, x.step), server, examples)
    if received.arrived is not None:
        after = where_rows(slots.to_slots(received.arrived), after, server)
    return after, losses, slots.shard(cut_gradient)
