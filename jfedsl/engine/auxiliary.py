"""Auxiliary layers: a loss that clients compute by themselves, right behind the cut."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.engine.client_step import chunk_of
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.parts import auxiliary_of_client
from jfedsl.engine.state import Client, RunSpec
from jfedsl.models import layers
from jfedsl.nn.platform import platform
from jfedsl.sharding.client_map import default_chunk, map_clients


def auxiliary_losses(
    x: Exchange, clients: Client, smashed: Array, labels: Array
) -> tuple[Array, Any, Array]:
    """The losses of the participants' auxiliary layers on their own activations.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      smashed: activations at the cut, `[P, B, ...]`.
      labels: targets, `[P, B, ...]`.

    Returns:
      Each client's mean loss `[P]`, and its gradients: of the parameters of its auxiliary layers,
      `[P, ...]`, and of its activation, `[P, B, ...]`.
    """
    gradients = jax.value_and_grad(partial(_loss, x.spec), argnums=(0, 2))
    losses, (head, cut) = _map(x, gradients, clients, smashed, labels)
    return losses, head, x.spec.slots.shard(cut)


def fit_auxiliary(
    x: Exchange,
    clients: Client,
    smashed: Array,
    labels: Array,
    cut_gradient: Array,
    kept: Array | None,
) -> tuple[Client, Array]:
    """Fits the participants' auxiliary layers to gradients at the cut that the server returned.

    Each takes the algorithm's `fit_steps` steps on `fit_error` with the clients' optimizer, from a
    fresh state of it: what it remembers of the gradients of another loss stays as it is.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      smashed: activations that the server had, `[P, B, ...]`.
      labels: targets, `[P, B, ...]`.
      cut_gradient: what came back, `[P, B, ...]`, 0 where an entry did not.
      kept: bool `[P, B, ...]`, which entries came back; None: all.

    Returns:
      The participants with their fitted layers, and the error before each step and after the last
      one, `[P, steps + 1]`.
    """
    spec, optimizer = x.spec, x.spec.client_optimizer
    steps = spec.algorithm.fit_steps(spec.options)

    def fit(params: Any, *given: Any) -> tuple[Any, Array]:
        def step(fitted: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Array]:
            error, gradient = jax.value_and_grad(partial(fit_error, spec))(fitted[0], *given)
            return masked_step(optimizer, None, gradient, fitted[1], fitted[0], x.step), error

        (params, _), errors = lax.scan(step, (params, optimizer.init(params)), length=steps)
        return params, jnp.append(errors, fit_error(spec, params, *given))

    fitted, errors = _map(x, fit, clients, smashed, labels, cut_gradient, kept)
    before = clients.params[: spec.cut + spec.tail]
    return clients.replace(params=before + fitted), errors


def fit_error(
    spec: RunSpec,
    params: Any,
    stats: Any,
    smashed: Array,
    labels: Array,
    cut_gradient: Array,
    kept: Array | None = None,
) -> Array:
    """How far the gradient of one client's auxiliary loss at the cut is from another gradient.

    It is the squared norm of their difference over the sum of their squared norms: 0 if both are
    equal, 1 if orthogonal, at most 2. That sum counts as a constant, so that a step on the error is
    one on the squared difference, of a size that does not depend on the batch, the cut or how small
    gradients have become.

    Args:
      spec: functions and static numbers of the run.
      params: of the auxiliary layers.
      stats: of the same layers.
      smashed: activation at the cut, `[B, ...]`.
      labels: targets, `[B, ...]`.
      cut_gradient: to compare with, `[B, ...]`, 0 where `kept` is False.
      kept: bool `[B, ...]`, which entries are compared; None: all.
    """
    gradient = input_gradient(spec, params, stats, smashed, labels)
    if kept is not None:
        gradient = jnp.where(kept, gradient, 0.0)
    size = jnp.sum(jnp.square(lax.stop_gradient(gradient))) + jnp.sum(jnp.square(cut_gradient))
    return jnp.sum(jnp.square(gradient - cut_gradient)) / jnp.where(size > 0, size, 1.0)


def input_gradient(spec: RunSpec, params: Any, stats: Any, smashed: Array, labels: Array) -> Array:
    """The gradient of one client's auxiliary loss at its activation `[B, ...]`, of that shape."""
    gradient: Array = jax.grad(partial(_loss, spec), argnums=2)(params, stats, smashed, labels)
    return gradient


def _loss(spec: RunSpec, params: Any, stats: Any, smashed: Array, labels: Array) -> Array:
    outputs, _ = layers.apply(spec.auxiliary, params, stats, smashed, True, spec.dtype)
    return spec.task.mean_loss(outputs, labels)


def _map(x: Exchange, function: Callable[..., Any], clients: Client, *rows: Any) -> Any:
    """Maps a function of auxiliary variables and more over the participants."""
    params, stats = (auxiliary_of_client(x.spec, kind) for kind in (clients.params, clients.stats))
    return map_layers(x, function, params, stats, *rows)


def map_layers(x: Exchange, function: Callable[..., Any], params: Any, *rows: Any) -> Any:
    """Maps a function of the parameters of some layers, and more, over the participants.

    At most as many at once as in the layers before the cut, see `chunk_of`; on CPU convolutions run
    in a loop.

    Args:
      x: the exchange.
      function: of one participant.
      params: `[P, ...]`.
      *rows: pytrees of arrays `[P, ...]`.
    """
    spec, slots = x.spec, x.spec.slots
    one, held = jax.tree.map(lambda leaf: leaf[0], params), slots.num_slots // slots.devices
    chunk = min(default_chunk(platform(), one, held), chunk_of(spec, held))
    return map_clients(function, chunk, slots.mesh)(params, *rows)
