"""Expected message sizes, quantization errors and round costs of a setting, without training."""

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
from jfedsl.engine.exchange import Availability
from jfedsl.engine.message_sizes import (
    AFTER_RAMPS,
    bits_of,
    client_shapes,
    noise_exchange,
    noise_like,
    up_bits,
)
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.state import Client, RunSpec, weights
from jfedsl.keys import Purpose, fold
from jfedsl.wireless.cost import Cost, Sent, round_cost

SAMPLED_ROUNDS = 100  # over which seconds and joules are averaged
_ROUNDING = 1e-5  # the weights of all clients add up to 1 within this


class ExchangeMessages(NamedTuple):
    """The messages of one exchange, when the pruning rate has been reached.

    Attributes:
      up: bits of the activation at the cut and its labels, float32 `[C]`.
      down: bits of the gradient at the cut, float32 `[C]`.
      error: squared error of the compressed gradient at the cut over its squared norm, for Gaussian
        entries, float32 `[C]`.
    """

    up: Array
    down: Array
    error: Array


class PeriodStart(NamedTuple):
    """The start of an aggregation period, when the pruning rate has been reached.

    Attributes:
      clients: all clients with their masks, `[C, ...]`.
      model_up: bits that a client uploads at the end of the period, float32 `[C]`.
      model_down: bits of the model and masks that it receives at the start, float32 `[C]`.
    """

    clients: Client
    model_up: Array
    model_down: Array


class MaskStatistics(NamedTuple):
    """What masks remove from the client-side weights.

    Attributes:
      rho: removed share of the squared norm of the weights, mean over clients.
      pruned_everywhere: share of the weights, by number, that no client keeps.
      coverage: the least total aggregation weight of the clients that keep a weight, over the
        weights that any client keeps.
    """

    rho: Any
    pruned_everywhere: Any
    coverage: Any


class Costs(NamedTuple):
    """Mean simulated costs of one round for every setting, each `[n]`.

    Attributes:
      exchange_seconds: seconds of the exchanges of a round.
      model_seconds: seconds that the model's download and upload add to a period.
      exchange_joules: joules of the exchanges of a round.
      model_joules: joules that the model's download and upload add to a period.
    """

    exchange_seconds: Array
    model_seconds: Array
    exchange_joules: Array
    model_joules: Array


def expected_exchange(spec: RunSpec, key: Array, image: tuple[int, ...]) -> ExchangeMessages:
    """Sizes and error of both messages of an exchange, counted on one message of Gaussian noise.

    Args:
      spec: of the setting, with its compressors.
      key: run key.
      image: shape of one input.
    """
    shapes = client_shapes(spec, key, image)

    def of_client(number: Array) -> ExchangeMessages:
        up, gradient, down = noise_exchange(spec, key, shapes, number)
        if down is None:
            return ExchangeMessages(up_bits(spec, up), jnp.zeros(()), jnp.zeros(()))
        error = _relative_error(gradient, down.values)
        return ExchangeMessages(up_bits(spec, up), bits_of(message_bytes([down])), error)

    return jax.jit(lambda: lax.map(of_client, jnp.arange(spec.clients)))()


def gradient_error(spec: RunSpec, key: Array, clients: Client) -> Array:
    """Squared error of a compressed weight gradient over its squared norm, for Gaussian entries.

    Args:
      spec: of the setting, with its compressors.
      key: run key.
      clients: some clients with their masks, `[n, ...]`.

    Returns:
      The relative error of each client, float32 `[n]`.
    """

    def of_client(client: Client) -> Array:
        compressor_state = init_tree(spec.compressors["client_gradient"](0), client.params)
        states = {**client.compressor_states, "client_gradient": compressor_state}
        client = client.replace(compressor_states=states)
        kept = spec.pruner.kept(client.masks).params
        gradient = noise_like(client.params, fold(key, Purpose.HARDWARE, 5, client.number))
        if kept is not None:
            gradient = jax.tree.map(lambda g, m: jnp.where(m, g, 0.0), gradient, kept)
        draw_key = fold(key, Purpose.HARDWARE, 6, client.number)
        return _relative_error(gradient, send_gradient(spec, client, gradient, draw_key)[1])

    return jax.jit(lambda rows: lax.map(of_client, rows))(clients)


def costs(spec: RunSpec, key: Array, start: PeriodStart, up: Array, down: Array) -> Costs:
    """Mean seconds and joules of a round of every setting, over rounds with independent fading.

    Fading that lasts has the same mean. Clients that move are where they start.

    Participants are drawn anew in every sampled round. All settings see the same draws.

    Under Rayleigh fading without outage the expectation is infinite, because a channel may be
    arbitrarily bad: the mean grows with the logarithm of the number of sampled rounds.

    Clients that outage can cut off are taken to hold the model of the period.

    Args:
      spec: of any of the settings, with a radio. The band is shared by `up`, not by the bits of its
        deployment.
      key: run key.
      start: of a period.
      up: bits of each client's activation at the cut, `[n, C]`.
      down: bits of each client's gradient at the cut, `[n, C]`.
    """
    assert spec.radio is not None
    radio = spec.radio

    def round_costs(start: PeriodStart, round_: Array, up: Array, down: Array) -> Costs:
        setting = as_sampled(spec, up)
        ids = draw_participants(setting, key, round_)
        clients = jax.tree.map(lambda x: x[ids], start.clients)
        conditions = round_conditions(setting, key, round_, ids, clients)
        has_current_model = jnp.ones(ids.shape, bool)
        arrived = has_current_model
        if radio.can_fail:
            arrived = Availability(has_current_model, conditions).arrived(
                radio.deadline, up[ids] / 8
            )
        down = jnp.where(arrived, down[ids], 0.0)

        def cost(model_up: Array, model_down: Array) -> tuple[Array, Array]:
            rows = [jnp.tile(x, (spec.local_steps, 1)) for x in (up[ids], down, arrived)]
            sent = Sent(rows[0], rows[1], model_up, model_down, rows[2], has_current_model)
            total: Cost = round_cost(radio, ids, conditions, sent)
            return total.seconds, jnp.sum(total.compute_joules + total.transmit_joules)

        no_bits = jnp.zeros(ids.shape)
        seconds, joules = cost(no_bits, no_bits)
        all_seconds, all_joules = cost(start.model_up[ids], start.model_down[ids])
        return Costs(seconds, all_seconds - seconds, joules, all_joules - joules)

    def mean_costs(start: PeriodStart, up: Array, down: Array) -> Costs:
        of_settings = jax.vmap(partial(round_costs, start), (None, 0, 0))
        rounds = AFTER_RAMPS + jnp.arange(SAMPLED_ROUNDS, dtype=jnp.int32)
        sampled = lax.map(lambda round_: of_settings(round_, up, down), rounds)
        return Costs(*(jnp.mean(x, axis=0) for x in sampled))

    return jax.jit(mean_costs)(start, up, down)


def as_sampled(spec: RunSpec, up: Array) -> RunSpec:
    """The run with fading anew in every round, and devices where they start.

    Args:
      spec: of the run, with a radio.
      up: bits of each client's activation at the cut, by which the band is shared, `[C]`.
    """
    radio = spec.radio
    assert radio is not None
    bits = jnp.broadcast_to(up, (len(spec.pruner.width_configs), spec.clients))
    hardware = radio.deployment.hardware._replace(motion=None)
    network = radio.network._replace(fading_memory=0.0)
    deployment = radio.deployment._replace(hardware=hardware, bits=bits)
    return spec._replace(radio=radio._replace(network=network, deployment=deployment))


def mask_statistics(spec: RunSpec, partition: Partition, params: Any, masks: Any) -> MaskStatistics:
    """What masks remove from weights.

    Args:
      spec: of the setting.
      partition: of the training examples, from which aggregation weights follow.
      params: weights of the client-side layers.
      masks: of all clients, leaves `[C, ...]`; without leaves where nothing is pruned.
    """
    if not jax.tree.leaves(masks):
        return MaskStatistics(0.0, 0.0, 1.0)
    kept = jax.vmap(lambda m: spec.pruner.kept(m).params)(masks)
    client_weights = np.asarray(weights(spec, partition, jnp.arange(spec.clients)))
    squares, coverage = [], []
    for leaf, kept_leaf in zip(jax.tree.leaves(params), jax.tree.leaves(kept), strict=True):
        squares.append(np.square(np.asarray(leaf, np.float64)).ravel())
        keepers = np.tensordot(client_weights, kept_leaf, 1)
        coverage.append(np.asarray(keepers, np.float64).ravel())
    square, covered = np.concatenate(squares), np.concatenate(coverage)
    norm, kept_by_any = float(square.sum()), covered[covered > 0]
    least = float(kept_by_any.min()) if kept_by_any.size else 1.0
    return MaskStatistics(
        rho=float((square * (1 - covered)).clip(0).sum() / norm) if norm else 0.0,
        pruned_everywhere=float(np.mean(covered == 0)),
        coverage=1.0 if least > 1 - _ROUNDING else least,
    )


def _relative_error(sent: Any, arrived: Any) -> Array:
    """Squared norm of the difference of two trees over that of `sent`, if not 0."""

    def square(tree: Any) -> Array:
        parts = (jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))
        return sum(parts, start=jnp.zeros(()))

    norm = square(sent)
    return square(jax.tree.map(jnp.subtract, arrived, sent)) / jnp.where(norm > 0, norm, 1.0)
