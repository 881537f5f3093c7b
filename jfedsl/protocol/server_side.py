"""The server's side of an exchange: it steps on all activations, on each in turn, or in copies."""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jfedsl.keys import Stage, fold
from jfedsl.models import layers
from jfedsl.protocol.clients import default_chunk, map_clients
from jfedsl.protocol.optimizers import masked_step
from jfedsl.protocol.state import Scheme, Server, where_rows

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
          smashed: float32 `[K, B, ...]`, 0 where nothing arrived.
          labels: int32 `[K, B]`.
          weights: float32 `[K]`, of the weighted mean over clients.
          arrived: bool `[K]`, whose activations there are; None: all.
          step: exchanges of the run before this one, int32 scalar.
          key: of this exchange.

        Returns:
          The server after the step, every client's mean loss before it `[K]`, and the gradient of
          each client's own mean loss at what arrived from it, `[K, B, ...]`.
        """


def joint_step(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps on the weighted mean loss of what arrived, as one batch with one set of weights.

    Where nothing arrived the server stays as it was. See `ServerStep`.
    """
    del key

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
    params, optimizer = masked_step(
        scheme.server_optimizer, None, gradient, server.optimizer, server.params, step
    )
    after = Server(params, stats, optimizer)
    if arrived is not None:
        after = jax.tree.map(partial(jnp.where, jnp.any(arrived)), after, server)
    return after, losses, cut_gradient


def _alone(
    scheme: Scheme, step: Array, key: Array, server: Server, smashed: Array, labels: Array
) -> tuple[Server, Array, Array]:
    """A step on one client's activation `[B, ...]`."""
    one = jnp.ones(1)
    server, loss, gradient = joint_step(
        scheme, server, smashed[None], labels[None], one, None, step, key
    )
    return server, loss[0], gradient[0]


def step_in_turn(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps on one client's activation after the other, in random order. See `ServerStep`."""
    del weights
    # No client has the number C.
    own = fold(key, scheme.clients, Stage.SERVER_ORDER)
    order = jax.random.permutation(own, labels.shape[0])

    def one(server: Server, n: Array) -> tuple[Server, tuple[Array, Array]]:
        after, loss, gradient = _alone(scheme, step, key, server, smashed[n], labels[n])
        if arrived is not None:
            after = jax.tree.map(partial(jnp.where, arrived[n]), after, server)
        return after, (loss, gradient)

    server, rows = lax.scan(one, server, order)
    back = jnp.argsort(order)
    losses, cut_gradient = jax.tree.map(lambda x: x[back], rows)
    return server, losses, cut_gradient


def step_copies(
    scheme: Scheme, server: Server, smashed: Array, labels: Array, weights: Array,
    arrived: Array | None, step: Array, key: Array,
) -> tuple[Server, Array, Array]:  # fmt: skip
    """Steps each participant's own copy of the server's part, `[K, ...]`. See `ServerStep`."""
    del weights
    backend, clients = jax.default_backend(), labels.shape[0]
    chunk = default_chunk(backend, jax.tree.map(lambda w: w[0], server.params), clients)
    mapped = map_clients(partial(_alone, scheme, step, key), min(chunk, scheme.chunk))
    after, losses, cut_gradient = mapped(server, smashed, labels)
    if arrived is not None:
        after = where_rows(arrived, after, server)
    return after, losses, cut_gradient
