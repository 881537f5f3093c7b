"""The simulated network of a run: what clients' layers take, and whether devices can hold them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.config import Config
from jfedsl.engine.auxiliary import fit_error, input_gradient
from jfedsl.engine.message_sizes import expected_bits
from jfedsl.engine.parts import group_cuts, tail_part
from jfedsl.engine.state import RunSpec
from jfedsl.engine.traffic import tail_input_shape
from jfedsl.errors import flag_error
from jfedsl.keys import Purpose, fold
from jfedsl.models.flops import layer_flops, lowered_flops
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model
from jfedsl.models.shapes import output_of, variables_of
from jfedsl.nn.lax_only import lax_only
from jfedsl.run.assemble.hardware import Hardware, hardware_of, network_of
from jfedsl.run.assemble.pruning import Pruning
from jfedsl.wireless import channel
from jfedsl.wireless.memory import Memory, client_memory, while_fitted
from jfedsl.wireless.network import Network
from jfedsl.wireless.radio import Deployment, FlopCounts, Radio, deploy


def build_radio(
    config: Config, spec: RunSpec, pruning: Pruning, key: Array, image: tuple[int, ...]
) -> Radio | None:
    """The radio that a config asks for; None without a network.

    Args:
      config: all settings of the run.
      spec: of the run, still without a radio.
      pruning: the pruner, and the layers at each width.
      key: run key.
      image: shape of an input.

    Raises:
      UserError: devices that cannot hold their part.
    """
    network = network_of(config)
    if network is None:
        return None
    hardware = hardware_of(config)
    _check_memory(config, spec, pruning, hardware, image)
    cells = spec.algorithm.cells(spec.options, spec.clients)
    if cells is not None and cells.radii is not None:
        network = network._replace(radius=cells.radius_of_clients())
    outage = config.outage_snr_db
    return Radio(
        network=network,
        deployment=_deployment(config, spec, network, hardware, key, image),
        flop_counts=_flop_counts(config, spec, pruning, image),
        allocation=config.allocation,
        # Removed channels take their arithmetic with them.
        sparse=config.mask_compute == "ideal" and config.pruning == "mask",
        outage_snr=None if outage is None else channel.from_db(outage),
        timeout=config.outage_timeout_s,
        deadline=config.deadline_s,
        cells=cells,
    )


def _deployment(
    config: Config, spec: RunSpec, network: Network, hardware: Hardware, key: Array,
    image: tuple[int, ...],
) -> Deployment:  # fmt: skip
    bits = jnp.zeros((len(spec.pruner.width_configs), config.clients))
    if config.allocation == "minmax":
        bits = expected_bits(spec, key, image)
    hardware_key = fold(jax.random.key(config.device_seed), Purpose.HARDWARE)
    placed = deploy(hardware_key, network, hardware.flops, hardware.power_dbm)
    seed = config.network_seed
    return Deployment(placed, bits, None if seed is None else jnp.asarray(seed, jnp.uint32))


def _flop_counts(
    config: Config, spec: RunSpec, pruning: Pruning, image: tuple[int, ...]
) -> FlopCounts:
    x = _batch(config, image)
    smashed = output_of(spec.model[: spec.cut], x)
    beside = _flops(spec.auxiliary, smashed, _is_trained(spec.model[: spec.cut], x))
    each = [_flops(side, x, False) for side in pruning.sides]
    # Layers that a client does not hold cost it nothing.
    each = [np.pad(flops, ((0, spec.cut - len(flops)), (0, 0))) for flops in each]
    forward, backward = np.moveaxis(np.array([np.concatenate([f, beside]) for f in each]), 2, 0)
    passes = jnp.asarray(forward, jnp.float32), jnp.asarray(backward, jnp.float32)
    # Whatever a client's width, what it does not send arrives as zeros: the server's work is one.
    server = {cut: _server_flops(spec, cut, x) for cut in {spec.cut, *group_cuts(spec)}}
    whole: float | Array = float(server[spec.cut].sum())
    if spec.cuts is not None:
        each = [server[cut].sum() for cut in group_cuts(spec)]
        whole = jnp.asarray(np.repeat(each, spec.group_sizes), jnp.float32)
    return FlopCounts(
        *passes,
        server=whole,
        server_backward=float(server[spec.cut][1]),
        tail=float(_flops(*_tail(spec, smashed), True).sum()) if spec.tail else 0.0,
        fit=_fit_flops(spec, smashed),
    )


def _server_flops(spec: RunSpec, cut: int, x: jax.ShapeDtypeStruct) -> np.ndarray:
    """FLOPs of the layers behind a cut that the server has, forward and backward, `[2]`."""
    first, rest = spec.model[:cut], spec.model[cut : len(spec.model) - spec.tail]
    flops: np.ndarray = _flops(rest, output_of(first, x), _is_trained(first, x)).sum(axis=0)
    return flops


def _is_trained(model: Model, x: jax.ShapeDtypeStruct) -> bool:
    """Whether layers have parameters, so that clients need the gradient of what they make."""
    return bool(jax.tree.leaves(variables_of(model, x).params))


def _fit_flops(spec: RunSpec, smashed: jax.ShapeDtypeStruct) -> float:
    """FLOPs of a fit of the auxiliary layers; 0 if they are not fitted."""
    steps = spec.algorithm.fit_steps(spec.options)
    if not steps:
        return 0.0
    one_step = jax.value_and_grad(partial(fit_error, spec))
    with lax_only():
        return steps * lowered_flops(one_step, *_fit_inputs(spec, smashed), smashed)


def _fit_inputs(spec: RunSpec, smashed: jax.ShapeDtypeStruct) -> tuple[Any, ...]:
    """Shapes of parameters and statistics of the auxiliary layers, activation and targets."""
    shapes, batch = variables_of(spec.auxiliary, smashed), spec.batch_size
    labels = jax.ShapeDtypeStruct((batch, spec.classes), jnp.float32)
    if spec.task.of_tokens:
        labels = jax.ShapeDtypeStruct((batch, spec.positions), jnp.int32)
    elif spec.task.of_classes:
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return shapes.params, shapes.stats, smashed, labels


def _tail(spec: RunSpec, smashed: jax.ShapeDtypeStruct) -> tuple[Model, jax.ShapeDtypeStruct]:
    """The layers of the tail, and what they take."""
    return tail_part(spec, spec.model), tail_input_shape(spec, smashed)


def _batch(config: Config, image: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((config.batch_size, *image), jnp.float32)


@kept
def _flops(model: Model, x: jax.ShapeDtypeStruct, trained_input: bool) -> np.ndarray:
    return layer_flops(model, variables_of(model, x), x, trained_input)


def memory_of(config: Config, spec: RunSpec, side: Model, image: tuple[int, ...]) -> Memory:
    """Memory of a client with these layers, those of the tail and the auxiliary ones.

    Args:
      config: all settings of the run.
      spec: functions and static numbers of the run.
      side: the client-side layers at the widths of the client.
      image: shape of an input.
    """
    x, optimizer = _batch(config, image), spec.client_optimizer.init

    def of_layers(model: Model, x: jax.ShapeDtypeStruct, integers: bool = spec.integers) -> Memory:
        return client_memory(model, variables_of(model, x), optimizer, x, spec.dtype, integers)

    each, smashed = [of_layers(side, x)], output_of(spec.model[: spec.cut], x)
    if spec.tail:
        each.append(of_layers(*_tail(spec, smashed)))
    if spec.auxiliary:
        head = of_layers(spec.auxiliary, smashed, integers=False)  # as `auxiliary_losses`
        if spec.algorithm.fit_steps(spec.options):
            gradient = partial(input_gradient, spec)
            head = while_fitted(head, gradient, *_fit_inputs(spec, smashed))
        each.append(head)
    return Memory(*map(sum, zip(*each, strict=True)))


def _check_memory(
    config: Config, spec: RunSpec, pruning: Pruning, hardware: Hardware, image: tuple[int, ...]
) -> None:
    if not np.isfinite(hardware.memory).any():
        return
    needed = np.array([memory_of(config, spec, s, image).total for s in pruning.sides])
    width_configs = np.array(spec.pruner.width_configs)
    for group, members in enumerate(spec.pruner.groups):
        most = int(needed[width_configs[:, group]].max())
        lacking = hardware.memory[members] < most
        if lacking.any():
            flag = "device_classes" if config.device_classes else "device_memory"
            who = members[np.argmin(hardware.memory[members])]
            last = spec.model[group_cuts(spec)[group] - 1].name
            held = last + (" and the tail" if spec.tail else "")
            allowed = (
                f"at least {most} bytes, which layers up to {held} take "
                f"with --batch_size={config.batch_size}"
            )
            reason = (
                f"client {who} has {hardware.memory[who]:.0f} "
                f"({int(lacking.sum())} clients lack memory)"
            )
            raise flag_error(flag, getattr(config, flag), allowed, reason=reason)
