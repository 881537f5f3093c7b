"""The server's side of an exchange: it steps on all activations, on each in turn, or in copies."""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.state import Scheme, Server
from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.sharding.client_map import default_chunk, map_clients
from jfedsl.sharding.collectives import sum_devices
from jfedsl.sharding.slots import EVERYWHERE, SPREAD, where_rows

_LEAST_WEIGHT = 1e-15


class ServerStep(Protocol):
    """The server's step on an exchange's activations."""

    def __call__(
        self,
        scheme: Scheme,
        server: Server,
        smashed: Array,
        labels: Array,
        weights: Array,
        arrived: Array | None,
        step: Array,
        key: Array,
    ) -> tuple[Server, Array, Array]:
        """Steps.

        Args:
          scheme: of the run.
          server: before the step.
          smashed: float32 `[P, B, ...]`, 0 where nothing arrived.
          labels: int32 `[P, B]`.
          weights: float32 `[K]`, of the weighted mean over clients.
          arrived: bool `[K]`, whose activations there are; None: all.
          step: exchanges of the run before this one, int32 scalar.
          key: of this exchange.

        Returns:
          The server after the step, every client's mean loss before it `[P]`, and the gradient of
          each client's own mean loss at what arrived from it, `[P, B, ...]`.
        """


def joint_step(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps on the weighted mean loss of what arrived, as one batch with one set of weights.

    Where nothing arrived the server stays as it was. See `ServerStep`.
    """
    del key
    gradient, losses, cut_gradient, stats = _pass(scheme, server, smashed, labels, weights)
    after = _stepped(scheme, step, server, gradient, stats)
    if arrived is not None:
        after = jax.tree.map(partial(jnp.where, jnp.any(arrived)), after, server)
    return scheme.placement.everywhere(after), losses, cut_gradient


def _pass(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """`_gradients` of all places' activations, by weights `[K]` of participants.

    Each device passes its own ones, and the gradients of the server's weights are summed up. Batch
    norm, however, needs them all at once, without those of places left over.
    """
    placement = scheme.placement
    if not jax.tree.leaves(server.stats) and placement.mesh is not None:
        spread = jax.shard_map(
            partial(_over_devices, scheme),
            mesh=placement.mesh,
            in_specs=(EVERYWHERE, SPREAD, SPREAD, SPREAD),
            out_specs=(EVERYWHERE, SPREAD, SPREAD, EVERYWHERE),
            check_vma=False,
        )
        if not placement.needed.all():  # places left over may hold anything
            smashed = where_rows(jnp.asarray(placement.needed), smashed, jnp.zeros_like(smashed))
        return spread(server, smashed, labels, placement.weights(weights))
    if placement.needed.all():
        return _gradients(scheme, server, smashed, labels, placement.to_places(weights))
    smashed, labels = placement.to_participants((smashed, labels))
    gradient, losses, cut_gradient, stats = _gradients(scheme, server, smashed, labels, weights)
    return gradient, *placement.to_places((losses, cut_gradient)), stats


def _gradients(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """A pass of activations `[n, B, ...]` through the server's layers and back.

    Returns:
      The gradient of the mean loss by weights `[n]`, everyone's own losses `[n]`, the gradients of
      these at the activations `[n, B, ...]`, and the server's statistics after the pass.
    """

    def own_losses(params: Any, smashed: Array) -> tuple[Array, Any]:
        merged = smashed.reshape(-1, *smashed.shape[2:])
        logits, stats = layers.apply(
            scheme.model[scheme.cut :], params, server.stats, merged, True, scheme.dtype
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.reshape(-1))
        return losses.reshape(labels.shape).mean(axis=1), stats

    losses, back, stats = jax.vjp(own_losses, server.params, smashed, has_aux=True)
    # One backward pass serves the server's weighted mean and every client's own loss. A weight of
    # 0 becomes one too small to be seen in a sum of float32, and large enough to divide by.
    weights = jnp.maximum(weights, _LEAST_WEIGHT)
    gradient, cut_gradient = back(weights)
    if jax.tree.leaves(server.stats):
        # Batch norm makes every loss depend on every client's activation: no division undoes that.
        _, cut_gradient = back(jnp.ones_like(losses))
    else:
        cut_gradient /= weights.reshape(-1, *(1,) * (cut_gradient.ndim - 1))
    return gradient, losses, cut_gradient, stats


def _over_devices(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array
) -> tuple[Any, Array, Array, Any]:
    """`_gradients`, with that of the parameters summed over devices."""
    gradient, *own = _gradients(scheme, server, smashed, labels, weights)
    return sum_devices(gradient), *own


def _stepped(scheme: Scheme, step: Array, server: Server, gradient: Any, stats: Any) -> Server:
    params, optimizer = masked_step(
        scheme.server_optimizer, None, gradient, server.optimizer, server.params, step
    )
    return Server(params, stats, optimizer)


def _alone(
    scheme: Scheme, step: Array, server: Server, smashed: Array, labels: Array
) -> tuple[Server, Array, Array]:
    """A step on one client's activation `[B, ...]`."""
    gradient, losses, cut_gradient, stats = _gradients(
        scheme, server, smashed[None], labels[None], jnp.ones(1)
    )
    return _stepped(scheme, step, server, gradient, stats), losses[0], cut_gradient[0]


def serving_order(scheme: Scheme, key: Array) -> Array:
    """The order in which the server steps on participants, int32 `[K]`: their places.

    Args:
      scheme: of the run.
      key: of an exchange.
    """
    # No client has the number C.
    return jax.random.permutation(
        fold(key, scheme.clients, Stage.SERVER_ORDER), scheme.participants
    )


def step_in_turn(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps on one client's activation after the other, in random order. See `ServerStep`."""
    del weights
    placement, order = scheme.placement, serving_order(scheme, key)
    # The server is in one place: it serves everyone wherever their device is.
    smashed, labels = placement.to_participants((smashed, labels))

    def one(server: Server, n: Array) -> tuple[Server, tuple[Array, Array]]:
        after, loss, gradient = _alone(scheme, step, server, smashed[n], labels[n])
        if arrived is not None:
            after = jax.tree.map(partial(jnp.where, arrived[n]), after, server)
        return after, (loss, gradient)

    server, rows = lax.scan(one, server, order)
    back = jnp.argsort(order)
    losses, cut_gradient = placement.to_places(jax.tree.map(lambda x: x[back], rows))
    return server, losses, cut_gradient


def step_copies(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps each participant's own copy of the server's part, `[P, ...]`. See `ServerStep`."""
    del weights, key
    placement = scheme.placement
    backend, clients = jax.default_backend(), labels.shape[0]
    chunk = default_chunk(backend, jax.tree.map(lambda w: w[0], server.params), clients)
    mapped = map_clients(partial(_alone, scheme, step), min(chunk, scheme.chunk), placement.mesh)
    after, losses, cut_gradient = mapped(server, smashed, labels)
    if arrived is not None:
        after = where_rows(placement.to_places(arrived), after, server)
    return after, losses, cut_gradient
