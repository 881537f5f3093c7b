"""What rounds are expected to take, and what compressors do to messages, before any is sent."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.compression.compressor import init_tree
from jfedsl.compression.message import message_bytes
from jfedsl.data.partition import Partition
from jfedsl.engine.client_step import send_gradient
from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.exchange import Availability, send_cut_gradient
from jfedsl.engine.message_sizes import bits_of, client_shapes, send_noise, up_bits
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.state import Client, RunSpec, weights
from jfedsl.keys import Purpose, fold
from jfedsl.wireless.cost import Cost, Sent, round_cost

LATE = 2**20  # a round after every ramp of the pruning rate
SAMPLES = 100  # rounds that a setting's seconds and joules are the mean of
_ALIKE = 1e-5  # what everybody keeps has a share of 1 but for rounding


class Exchange(NamedTuple):
    """Messages of an exchange once pruning has its final rate, by client.

    Attributes:
      up: bits of the activation at the cut with its labels, float32 `[C]`.
      down: bits of the gradient at the cut, float32 `[C]`.
      error: squared error of that gradient over its squared norm, for Gaussian entries, float32
        `[C]`.
    """

    up: Array
    down: Array
    error: Array


class Start(NamedTuple):
    """A period once pruning has its final rate, by client.

    Attributes:
      clients: with masks, `[C, ...]`.
      model_up: bits of its upload, float32 `[C]`.
      model_down: bits of the model and masks that it receives, float32 `[C]`.
    """

    clients: Client
    model_up: Array
    model_down: Array


class Masking(NamedTuple):
    """What masks leave out of the client-side weights.

    Attributes:
      rho: share of their squared norm, mean over clients.
      alone: share of their number that nobody keeps.
      coverage: least weight of who keeps one that anyone keeps.
    """

    rho: Any
    alone: Any
    coverage: Any


class Costs(NamedTuple):
    """Of every setting `[n]`: a round's exchanges, and what the two ends of a period add."""

    exchange_seconds: Array
    model_seconds: Array
    exchange_joules: Array
    model_joules: Array


def expected_exchange(spec: RunSpec, key: Array, image: tuple[int, ...]) -> Exchange:
    """Both messages of an exchange, counted on one of noise as in `expected_bits`.

    Args:
      spec: of the run.
      key: run key.
      image: shape of an input.
    """
    shapes = client_shapes(spec, key, image)

    def one(number: Array) -> Exchange:
        client, up = send_noise(spec, key, shapes, jnp.int32(LATE), number)
        noise = jax.random.normal(fold(key, Purpose.DEVICES, 3, number), shapes[1].shape)
        gradient = noise.astype(shapes[1].dtype)
        if up.kept is not None:
            gradient = jnp.where(up.kept, gradient, 0.0)
        own = fold(key, Purpose.DEVICES, 4, number)
        down = send_cut_gradient(spec, client, gradient, up.kept, own)[1]
        error = _relative_error(gradient, down.values)
        return Exchange(up_bits(spec, up), bits_of(message_bytes([down])), error)

    return jax.jit(lambda: lax.map(one, jnp.arange(spec.clients)))()


def gradient_error(spec: RunSpec, key: Array, clients: Client) -> Array:
    """Squared error of quantized weight gradients over their squared norm, of Gaussian entries.

    Args:
      spec: of the run.
      key: run key.
      clients: any of them, `[n, ...]`, with their masks.

    Returns:
      One for each client, float32 `[n]`.
    """

    def one(client: Client) -> Array:
        link = init_tree(spec.compressors["client_gradient"](0), client.params)
        client = client.replace(
            compressor_states={**client.compressor_states, "client_gradient": link}
        )
        own = fold(key, Purpose.DEVICES, 5, client.number)
        kept = spec.pruner.kept(client.masks).params
        gradient = noise_like(client.params, own)
        if kept is not None:
            gradient = jax.tree.map(lambda g, m: jnp.where(m, g, 0.0), gradient, kept)
        own = fold(key, Purpose.DEVICES, 6, client.number)
        return _relative_error(gradient, send_gradient(spec, client, gradient, own)[1])

    return jax.jit(lambda rows: lax.map(one, rows))(clients)


def costs(spec: RunSpec, key: Array, start: Start, up: Array, down: Array) -> Costs:
    """Seconds and joules of a round: means over rounds with fading and participants of their own.

    Under Rayleigh fading without outage the mean has no limit, as now and then a round takes for
    ever: it grows with the logarithm of the number of rounds. Settings see the same draws.

    Devices that can be out of reach hold the period's model all the same.

    Args:
      spec: with a radio; its bits to share the band by are not read, but `up`.
      key: run key.
      start: of a period.
      up: bits of every client's activation at the cut `[n, C]`, a row for each setting.
      down: likewise of the gradient at the cut.
    """
    assert spec.radio is not None
    radio, layouts = spec.radio, len(spec.pruner.width_configs)

    def one(start: Start, round_: Array, up: Array, down: Array) -> Costs:
        site = radio.deployment._replace(bits=jnp.broadcast_to(up, (layouts, spec.clients)))
        own = spec._replace(radio=radio._replace(deployment=site))
        ids = draw_participants(own, key, round_)
        clients = jax.tree.map(lambda x: x[ids], start.clients)
        there = round_conditions(own, key, round_, ids, clients)
        has_current_model = jnp.ones(ids.shape, bool)
        arrived = has_current_model
        if radio.can_fail:
            arrived = Availability(has_current_model, there).arrived(radio.deadline, up[ids] / 8)
        down = jnp.where(arrived, down[ids], 0.0)

        def cost(model_up: Array, model_down: Array) -> tuple[Array, Array]:
            rows = [jnp.tile(x, (spec.local_steps, 1)) for x in (up[ids], down, arrived)]
            sent = Sent(rows[0], rows[1], model_up, model_down, rows[2], has_current_model)
            found: Cost = round_cost(radio, ids, there, sent)
            return found.seconds, jnp.sum(found.compute_joules + found.transmit_joules)

        nothing = jnp.zeros(ids.shape)
        seconds, joules = cost(nothing, nothing)
        more_seconds, more_joules = cost(start.model_up[ids], start.model_down[ids])
        return Costs(seconds, more_seconds - seconds, joules, more_joules - joules)

    def every(start: Start, up: Array, down: Array) -> Costs:
        each = jax.vmap(partial(one, start), (None, 0, 0))
        found = lax.map(lambda r: each(r, up, down), LATE + jnp.arange(SAMPLES, dtype=jnp.int32))
        return Costs(*(jnp.mean(x, axis=0) for x in found))

    return jax.jit(every)(start, up, down)


def masking(spec: RunSpec, partition: Partition, params: Any, masks: Any) -> Masking:
    """What masks leave out of weights.

    Args:
      spec: of the run.
      partition: of the data, which says what clients weigh.
      params: of the client-side model.
      masks: of all clients, `[C, ...]`.
    """
    if not jax.tree.leaves(masks):
        return Masking(0.0, 0.0, 1.0)
    kept = jax.vmap(lambda m: spec.pruner.kept(m).params)(masks)
    of_each = weights(spec, partition, jnp.arange(spec.clients))
    pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(kept), strict=True))
    rows = [
        (np.square(np.asarray(w, np.float64)), np.tensordot(np.asarray(of_each), m, 1))
        for w, m in pairs
    ]
    squares = np.concatenate([s.ravel() for s, _ in rows])
    share = np.concatenate([np.asarray(k, np.float64).ravel() for _, k in rows])
    norm, held = float(squares.sum()), share[share > 0]
    least = float(held.min()) if held.size else 1.0
    return Masking(
        rho=float((squares * (1 - share)).clip(0).sum() / norm) if norm else 0.0,
        alone=float(np.mean(share == 0)),
        coverage=1.0 if least > 1 - _ALIKE else least,
    )


def noise_like(tree: Any, key: Array) -> Any:
    """Gaussian noise of the shapes of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    drawn = [jax.random.normal(fold(key, i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


def _relative_error(sent: Any, arrived: Any) -> Array:
    def square(tree: Any) -> Array:
        parts = (jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))
        return sum(parts, start=jnp.zeros(()))

    norm = square(sent)
    return square(jax.tree.map(jnp.subtract, arrived, sent)) / jnp.where(norm > 0, norm, 1.0)
