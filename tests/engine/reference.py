"""The protocol as a plain loop over clients, the way one would write it first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfedsl.compression.compressor import send_tree
from jfedsl.compression.message import Message, kept_only
from jfedsl.data import batches
from jfedsl.keys import Purpose, Stage, fold
from jfedsl.models import layers
from jfedsl.run.assemble import Experiment

_draw = jax.jit(batches.draw, static_argnums=(4, 5))


def batch(experiment: Experiment, client: int, drawn: int) -> tuple[Any, Any]:
    """One client's next mini-batch, gathered on the host."""
    spec, data = experiment.spec, experiment.data
    key = fold(experiment.key, Purpose.BATCHES)
    numbers = (jnp.int32(client), jnp.int32(drawn))
    where = _draw(key, data.partition, *numbers, spec.batch_size, spec.sampling)
    images = np.asarray(data.images)[np.asarray(where)]
    mean, std = (np.asarray(x)[None, None, None] for x in data.pixels)
    return jnp.asarray((images - mean) / std), data.labels[where]


def mean_loss(model: layers.Model, params: Any, stats: Any, images: Any, labels: Any) -> Any:
    """Mean cross-entropy of a run of layers."""
    logits, _ = layers.apply(model, params, stats, images, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def gradients(
    experiment: Experiment, state: Any, number: int, step: int, weights: Any
) -> tuple[Any, list[Any], list[Any]]:
    """Server gradient, client gradients and losses of one exchange, client after client.

    Masks, dropout and links as in the spec.
    """
    one = jax.jit(lambda *arguments: _one(experiment, *arguments))
    server_gradient, client_gradients, losses = None, [], []
    for slot, n in enumerate(np.asarray(state.participants).tolist()):
        client = jax.tree.map(lambda x, slot=slot: x[slot], state.clients)
        key = fold(experiment.key, Purpose.EXCHANGE, number, step, n)
        images, labels = batch(experiment, n, int(client.batches_seen))
        loss, gradient, quantized = one(state.server, client, images, labels, key)
        share = float(weights[slot])
        scaled = jax.tree.map(lambda g, share=share: share * g, gradient)
        server_gradient = (
            scaled if server_gradient is None else jax.tree.map(jnp.add, server_gradient, scaled)
        )
        client_gradients.append(quantized)
        losses.append(loss)
    return server_gradient, client_gradients, losses


def _one(
    experiment: Experiment, server: Any, client: Any, images: Any, labels: Any, key: Any
) -> tuple[Any, Any, Any]:
    """One client's loss, its gradient by the server's weights, and its own quantized one."""
    spec, params = experiment.spec, client.params
    if client.masks is not None:
        params = jax.tree.map(lambda w, m: w * m.astype(w.dtype), params, client.masks)

    def smash(params: Any) -> Any:
        activation, _ = layers.apply(
            spec.model[: spec.cut], params, client.stats, images, train=True
        )
        link = client.compressor_states["smashed"]
        send = spec.compressors["smashed"](client.number).send
        return send(link, fold(key, Stage.SMASHED), Message(activation))[1]

    message = smash(params)
    loss, (gradient, cut_gradient) = jax.value_and_grad(
        lambda p, x: mean_loss(spec.model[spec.cut :], p, server.stats, x, labels), (0, 1)
    )(server.params, message.values)
    _, back = spec.compressors["cut_gradient"](client.number).send(
        client.compressor_states["cut_gradient"],
        fold(key, Stage.CUT_GRADIENT),
        kept_only(cut_gradient, message.kept),
    )
    chained = jax.grad(lambda p: jnp.sum(smash(p).values * back.values))(params)
    _, quantized, _ = send_tree(
        spec.compressors["client_gradient"](client.number),
        client.compressor_states["client_gradient"],
        fold(key, Stage.CLIENT_GRADIENT),
        chained,
        client.masks,
    )
    return loss, gradient, quantized
