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

from jfedsl.engine.exchange import Exchange
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.parts import server_part
from jfedsl.engine.state import RunSpec, Server
from jfedsl.engine.transmit import Uplink
from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.sharding.client_map import default_chunk, map_clients
from jfedsl.sharding.collectives import sum_devices
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
    spec = x.spec
    gradient, losses, cut_gradient, stats = _pass(
        spec, server, Examples(received.values, labels, received.lengths), received.weights
    )
    after = _stepped(spec, x.step, server, gradient, stats)
    if received.arrived is not None:
        after = jax.tree.map(partial(jnp.where, jnp.any(received.arrived)), after, server)
    return spec.slots.replicate(after), losses, spec.slots.shard(cut_gradient)


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


def _pass(
    spec: RunSpec, server: Server, examples: Examples, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """`_gradients` of the examples in all slots, weighted by participant `[K]`.

    Each device passes its own ones, and the gradients of the server's weights are summed up. Batch
    norm, however, needs them all at once, without the padding slots.
    """
    slots = spec.slots
    if not jax.tree.leaves(server.stats) and slots.mesh is not None:
        spread = jax.shard_map(
            partial(_over_devices, spec),
            mesh=slots.mesh,
            in_specs=(REPLICATED, SHARDED, SHARDED),
            out_specs=(REPLICATED, SHARDED, SHARDED, REPLICATED),
            check_vma=False,
        )
        examples = examples._replace(smashed=_real_rows(slots)(examples.smashed))
        return spread(server, examples, slots.weights(weights))
    if slots.is_real.all():
        return _gradients(spec, server, examples, slots.to_slots(weights))
    examples = slots.to_participants(examples)
    gradient, losses, cut_gradient, stats = _gradients(spec, server, examples, weights)
    return gradient, *slots.to_slots((losses, cut_gradient)), stats


def _gradients(
    spec: RunSpec, server: Server, examples: Examples, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """A pass of examples `[n, B, ...]` through the server's layers and back.

    Returns:
      The gradient of the mean loss by weights `[n]`, each client's loss `[n]`, the gradients of
      these at the activations `[n, B, ...]`, and the server's statistics after the pass.
    """

    def of_each(params: Any, smashed: Array) -> tuple[Array, Any]:
        x, labels, lengths = jax.tree.map(
            lambda rows: rows.reshape(-1, *rows.shape[2:]), examples._replace(smashed=smashed)
        )
        model = server_part(spec, spec.model)
        logits, stats = layers.apply(model, params, server.stats, x, True, spec.dtype, lengths)
        losses = spec.task.loss(logits, labels)
        return spec.task.mean(losses.reshape(smashed.shape[:2]), examples.labels), stats

    losses, back, stats = jax.vjp(of_each, server.params, examples.smashed, has_aux=True)
    gradient, cut_gradient = _backward(server, back, weights, jnp.ones_like(losses))
    return gradient, losses, cut_gradient, stats


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


def server_forward(x: Exchange, server: Server, received: Uplink) -> tuple[Array, ServerBackward]:
    """Runs the server's layers on all that arrived, as one batch with one set of weights.

    Returns:
      What the layers made, `[P, B, ...]`, and `server_backward`. It steps on the weighted mean of
      the participants' losses; where nothing arrived the server stays as it was.
    """
    spec, slots, mesh = x.spec, x.spec.slots, x.spec.slots.mesh
    # Batch norm needs all at once, without the padding slots.
    joint = bool(jax.tree.leaves(server.stats)) and not slots.is_real.all()
    enter, leave = (slots.to_participants, slots.to_slots) if joint else (_real_rows(slots), _same)

    def run(params: Any, smashed: Array, lengths: Array | None) -> tuple[Array, Any]:
        flat = smashed.reshape(-1, *smashed.shape[2:])
        lengths = None if lengths is None else lengths.reshape(-1)
        model = server_part(spec, spec.model)
        y, stats = layers.apply(model, params, server.stats, flat, True, spec.dtype, lengths)
        return y.reshape(*smashed.shape[:2], *y.shape[1:]), stats

    if mesh is not None and not jax.tree.leaves(server.stats):
        # Each device passes its own; the gradients of the parameters are summed over devices.
        run = jax.shard_map(
            run, mesh=mesh, in_specs=(REPLICATED, SHARDED, SHARDED),
            out_specs=(SHARDED, REPLICATED), check_vma=False,
        )  # fmt: skip
    arrived, lengths = enter((received.values, received.lengths))
    outputs, back, stats = jax.vjp(
        lambda params, smashed: run(params, smashed, lengths), server.params, arrived, has_aux=True
    )

    def server_backward(gradient: Array) -> tuple[Server, Array]:
        share = received.weights if joint else slots.weights(received.weights)
        of_server, cut_gradient = _backward(server, back, share, enter(gradient))
        after = _stepped(spec, x.step, server, of_server, stats)
        if received.arrived is not None:
            after = jax.tree.map(partial(jnp.where, jnp.any(received.arrived)), after, server)
        return slots.replicate(after), slots.shard(leave(cut_gradient))

    return slots.shard(leave(outputs)), server_backward


def _real_rows(slots: SlotLayout) -> Callable[[Any], Any]:
    """Makes rows of padding slots, which may hold anything, 0."""
    if slots.is_real.all():
        return _same
    real = jnp.asarray(slots.is_real)
    return lambda rows: where_rows(real, rows, jax.tree.map(jnp.zeros_like, rows))


def _same(rows: Any) -> Any:
    return rows


def _over_devices(
    spec: RunSpec, server: Server, examples: Examples, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """`_gradients`, with that of the parameters summed over devices."""
    gradient, *per_client = _gradients(spec, server, examples, weights)
    return sum_devices(gradient), *per_client


def _stepped(spec: RunSpec, step: Array, server: Server, gradient: Any, stats: Any) -> Server:
    params, optimizer = masked_step(
        spec.server_optimizer, None, gradient, server.optimizer, server.params, step
    )
    return Server(params, stats, optimizer)


def _alone(
    spec: RunSpec, step: Array, server: Server, examples: Examples
) -> tuple[Server, Array, Array]:
    """A step on one client's examples `[B, ...]`."""
    one = jax.tree.map(lambda rows: rows[None], examples)
    gradient, losses, cut_gradient, stats = _gradients(spec, server, one, jnp.ones(1))
    return _stepped(spec, step, server, gradient, stats), losses[0], cut_gradient[0]


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
    spec, slots = x.spec, x.spec.slots
    backend, clients = jax.default_backend(), labels.shape[0]
    chunk = default_chunk(backend, jax.tree.map(lambda w: w[0], server.params), clients)
    mapped = map_clients(partial(_alone, spec, x.step), min(chunk, spec.chunk), slots.mesh)
    examples = Examples(received.values, labels, received.lengths)
    after, losses, cut_gradient = mapped(server, examples)
    if received.arrived is not None:
        after = where_rows(slots.to_slots(received.arrived), after, server)
    return after, losses, slots.shard(cut_gradient)


def whole_model_losses(x: Exchange, logits: Array, labels: Array) -> tuple[Array, Array]:
    """Losses without a server: of outputs `[P, B, ...]` that clients computed by themselves.

    Returns:
      Each client's mean loss `[P]`, and its gradient at the outputs, `[P, B, ...]`.
    """
    losses, gradient = jax.vmap(jax.value_and_grad(x.spec.task.mean_loss))(logits, labels)
    return losses, x.spec.slots.shard(gradient)
