"""Cuts by what clients' devices can hold and compute and how fast their links are."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jfedsl.compression.alike import alike
from jfedsl.compression.message import FLOAT_BITS, Message, kept_only, message_bytes
from jfedsl.config import Config
from jfedsl.engine import optimizers
from jfedsl.errors import flag_error
from jfedsl.keys import Purpose, fold
from jfedsl.models.flops import layer_flops
from jfedsl.models.layers import Model
from jfedsl.models.shapes import output_of, variables_of
from jfedsl.run.assemble.compressors import compressors_of
from jfedsl.run.assemble.hardware import hardware_of, network_of
from jfedsl.wireless.memory import client_memory
from jfedsl.wireless.radio import deploy, mean_rates


class Links(NamedTuple):
    """What each client computes and sends with, float64 `[C]`.

    Attributes:
      flops: of its device, FLOP/s.
      up: bit/s.
      down: bit/s.
      memory: bytes; infinite where that is not limited.
    """

    flops: np.ndarray
    up: np.ndarray
    down: np.ndarray
    memory: np.ndarray


def chooser(
    config: Config, model: Model, cuts: Sequence[int], x: jax.ShapeDtypeStruct
) -> Callable[[Links], np.ndarray]:
    """From links to each client's cut: of those that its memory suffices for, the fastest one.

    An exchange takes the client's forward and backward pass, both messages at the cut, the
    server's layers for all participants, and its share of the model's way down and up. Nothing is
    pruned. What cuts cost is computed at the first choice and kept for the next ones.

    Args:
      config: all settings of the run, with a network.
      model: all layers.
      cuts: to choose from.
      x: an input, `[1, ...]`.

    Returns:
      A function of the links of all clients, which returns a cut for each client, int `[C]`; see
      `fastest_cuts` for what it raises.
    """
    costs = cache(partial(costs_of_cuts, config, model, cuts, x))
    return lambda links: fastest_cuts(config, links, *costs(), cuts)


def links_of(config: Config) -> Links:
    """What clients compute and send with, before a run: no fading, equal shares of the band."""
    hardware, network = hardware_of(config), network_of(config)
    assert network is not None  # the config has checked it
    key = fold(jax.random.key(config.device_seed), Purpose.HARDWARE)
    placed = deploy(key, network, hardware.flops, hardware.power_dbm)
    rates = mean_rates(network, placed, config.participants or config.clients)
    up, down = (np.asarray(rate, np.float64) for rate in rates)
    return Links(hardware.flops, up, down, hardware.memory)


class CutCosts(NamedTuple):
    """What each of some cuts costs.

    Attributes:
      flops: of a client in an exchange, `[cuts]`.
      server: seconds of the server for all participants, `[cuts]`.
      up: bits of each client's activation, `[cuts, C]`.
      down: bits of each client's gradient at the cut, `[cuts, C]`.
      model: bits of the client-side weights, for one exchange, `[cuts]`.
    """

    flops: np.ndarray
    server: np.ndarray
    up: np.ndarray
    down: np.ndarray
    model: np.ndarray


def costs_of_cuts(
    config: Config, model: Model, cuts: Sequence[int], x: jax.ShapeDtypeStruct
) -> tuple[CutCosts, np.ndarray]:
    """What each cut costs, and the bytes of memory that it takes, `[cuts]`."""
    batch = jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
    whole = variables_of(model, batch)
    flops = layer_flops(model, whole, batch, False).sum(axis=1)
    network = network_of(config)
    assert network is not None
    participants = config.participants or config.clients
    up, down = _message_bits(config, [output_of(model[:cut], batch) for cut in cuts])
    weights = [sum(leaf.size for leaf in jax.tree.leaves(whole.params[:cut])) for cut in cuts]
    period = config.local_steps * config.aggregate_every
    costs = CutCosts(
        flops=np.array([flops[:cut].sum() for cut in cuts]),
        server=participants * np.array([flops[cut:].sum() for cut in cuts]) / network.server_flops,
        up=up,
        down=down,
        model=FLOAT_BITS * np.array(weights) / period,
    )
    return costs, np.array([_memory(config, model[:cut], batch) for cut in cuts])


def _memory(config: Config, side: Model, batch: jax.ShapeDtypeStruct) -> int:
    init = optimizers.build(
        config.optimizer, optax.constant_schedule(1.0), config.momentum, config.weight_decay
    ).init
    dtype, integers = jnp.dtype(config.compute_dtype), config.client_backward == "int8"
    return client_memory(side, variables_of(side, batch), init, batch, dtype, integers).total


def _message_bits(
    config: Config, shapes: Sequence[jax.ShapeDtypeStruct]
) -> tuple[np.ndarray, np.ndarray]:
    """Bits of both messages at each cut, of each client, `[cuts, C]`, counted on noise.

    Of clients with the same compressors the messages of the first one are counted.

    Args:
      config: all settings of the run.
      shapes: of a client's activation at each cut.
    """
    compressors, key = compressors_of(config), jax.random.key(config.seed)

    def send(name: str, number: Array, message: Message) -> Message:
        compressor: Any = compressors[name](number)
        state = compressor.init(jnp.zeros_like(message.values))
        sent: Message = compressor.send(state, fold(key, number), message)[1]
        return sent

    def of_client(noise: Array, number: Array) -> tuple[Array, Array]:
        up = send("smashed", number, Message(noise))
        down = send("cut_gradient", number, kept_only(noise, up.kept))
        return message_bytes([up]), message_bytes([down])

    calls = (config.compressors.get(name, ()) for name in ("smashed", "cut_gradient"))
    groups = np.stack([alike(of_stream, config.clients, config.device_seed) for of_stream in calls])
    _, first, group = np.unique(groups, axis=1, return_index=True, return_inverse=True)
    draw, numbers = np.random.default_rng(config.seed), jnp.asarray(first, jnp.int32)
    noise = [jnp.asarray(draw.normal(size=shape.shape), shape.dtype) for shape in shapes]

    @jax.jit
    def of_groups(noise: list[Array]) -> list[tuple[Array, Array]]:
        return [lax.map(partial(of_client, values), numbers) for values in noise]

    counts = jax.device_get(of_groups(noise))
    up, down = 8.0 * np.stack(counts, axis=1)[..., group.reshape(-1)]
    return up, down


def fastest_cuts(
    config: Config, links: Links, costs: CutCosts, memory: np.ndarray, cuts: Sequence[int]
) -> np.ndarray:
    """For each client, of the cuts that its memory suffices for, the one with the fastest exchange.

    Args:
      config: all settings of the run.
      links: of all clients.
      costs: of all cuts.
      memory: bytes that each takes, `[cuts]`.
      cuts: the cuts.

    Raises:
      UserError: a client can hold none of these parts.
    """
    model = costs.model[:, None]
    seconds = (
        costs.flops[:, None] / links.flops
        + costs.server[:, None]
        + (costs.up + model) / links.up
        + (costs.down + model) / links.down
    )
    fits = memory[:, None] <= links.memory
    if not fits.any(axis=0).all():
        who = int(np.argmin(fits.any(axis=0)))
        flag = "device_classes" if config.device_classes else "device_memory"
        allowed = f"at least {memory.min()} bytes, which the smallest part of a client takes"
        reason = f"client {who} has {links.memory[who]:.0f}"
        raise flag_error(flag, getattr(config, flag), allowed, reason=reason)
    return np.asarray(cuts)[np.argmin(np.where(fits, seconds, np.inf), axis=0)]
