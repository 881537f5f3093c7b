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
from jfedsl.engine.parts import server_part, tail_part
from jfedsl.engine.state import RunSpec
from jfedsl.engine.traffic import smashed_shape, tail_input_shape
from jfedsl.errors import flag_error
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.models.flops import layer_flops, lowered_flops
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model, Variables
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
      UserError: a setting that the network has no use for, or devices that cannot hold their part.
    """
    network = network_of(config)
    if network is None:
        return None
    hardware = hardware_of(config)
    _check_memory(config, spec, pruning, hardware, image)
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
    )


def _deployment(
    config: Config, spec: RunSpec, network: Network, hardware: Hardware, key: Array,
    image: tuple[int, ...],
) -> Deployment:  # fmt: skip
    bits = jnp.zeros((len(spec.pruner.width_configs), config.clients))
    if config.allocation == "minmax":
        bits = expected_bits(spec, key, image)
    hardware_key = fold(key, Purpose.HARDWARE)
    return Deployment(deploy(hardware_key, network, hardware.flops, hardware.power_dbm), bits)


def _flop_counts(
    config: Config, spec: RunSpec, pruning: Pruning, image: tuple[int, ...]
) -> FlopCounts:
    x = _batch(config, image)
    # Whatever a client's width, what it does not send arrives as zeros: the server's work is one.
    shapes = _shapes(spec.model[: spec.cut], x)
    smashed = smashed_shape(spec, shapes.params, shapes.stats, image)
    trained = bool(jax.tree.leaves(shapes.params))  # or nothing needs the gradient at the cut
    beside = _flops(spec.auxiliary, smashed, trained)
    each = [np.concatenate([_flops(side, x, False), beside]) for side in pruning.sides]
    server = _flops(server_part(spec, spec.model), smashed, trained)
    forward, backward = np.moveaxis(np.array(each), 2, 0)
    passes = jnp.asarray(forward, jnp.float32), jnp.asarray(backward, jnp.float32)
    return FlopCounts(
        *passes,
        server=float(server.sum()),
        server_backward=float(server[:, 1].sum()),
        tail=float(_flops(*_tail(spec, smashed), True).sum()) if spec.tail else 0.0,
        fit=_fit_flops(spec, smashed),
    )


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
    shapes, batch = _shapes(spec.auxiliary, smashed), spec.batch_size
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
    return layer_flops(model, _shapes(model, x), x, trained_input)


def _shapes(model: Model, x: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)


def memory_of(config: Config, spec: RunSpec, side: Model, image: tuple[int, ...]) -> Memory:
    """Memory of a client with these layers, those of the tail and the auxiliary ones.

    Args:
      config: all settings of the run.
      spec: functions and static numbers of the run.
      side: the client-side layers at the widths of the client.
      image: shape of an input.
    """
    x, optimizer = _batch(config, image), spec.client_optimizer.init
    memory = client_memory(side, _shapes(side, x), optimizer, x, spec.dtype, spec.integers)
    shapes = _shapes(spec.model[: spec.cut], x)
    smashed = smashed_shape(spec, shapes.params, shapes.stats, image)

    def behind(model: Model, x: jax.ShapeDtypeStruct) -> Memory:
        return client_memory(model, _shapes(model, x), optimizer, x, spec.dtype, spec.integers)

    each = [memory]
    if spec.tail:
        each.append(behind(*_tail(spec, smashed)))
    if spec.auxiliary:
        head = behind(spec.auxiliary, smashed)
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
            held = spec.model[spec.cut - 1].name + (" and the tail" if spec.tail else "")
            allowed = (
                f"at least {most} bytes, which layers up to {held} take "
                f"with --batch_size={config.batch_size}"
            )
            reason = (
                f"client {who} has {hardware.memory[who]:.0f} "
                f"({int(lacking.sum())} clients lack memory)"
            )
            raise flag_error(flag, getattr(config, flag), allowed, reason=reason)
