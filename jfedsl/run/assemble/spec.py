"""The functions and static numbers of a run, from its config and what was put together before."""

import jax.numpy as jnp
from jax import Array

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.data.augment import AUGMENTATIONS
from jfedsl.engine import optimizers
from jfedsl.engine.state import RunSpec
from jfedsl.engine.task import Task
from jfedsl.models.layers import Model, Variables
from jfedsl.nn.platform import platform_of
from jfedsl.run.assemble.compressors import compressors_of, deployed_of
from jfedsl.run.assemble.pruning import Pruning
from jfedsl.sharding.client_map import default_chunk
from jfedsl.sharding.slots import SlotLayout


def spec_of(
    config: Config, model: Model, on_clients: tuple[int, int], initial: Variables, classes: int,
    task: Task, pruning: Pruning, slots: SlotLayout, image: Array,
) -> RunSpec:  # fmt: skip
    """What a run is, but for its network, adapters, personal and auxiliary layers, and options.

    Args:
      config: all settings of the run.
      model: all layers.
      on_clients: how many of the first and of the last ones are clients'.
      initial: variables of the whole model.
      classes: width of the outputs.
      task: that the model is trained for.
      pruning: of the client-side layers.
      slots: of the participants on devices.
      image: a sample input as the first layer is given it.
    """
    cut, tail = on_clients
    exchanges = config.rounds * config.local_steps
    client_rate, server_rate = (
        optimizers.schedule(config.learning_rate_schedule, peak, exchanges)
        for peak in (config.client_learning_rate, config.server_learning_rate)
    )
    client, server = (
        optimizers.build(config.optimizer, rate, config.momentum, config.weight_decay)
        for rate in (client_rate, server_rate)
    )
    return RunSpec(
        model=model,
        cut=cut,
        tail=tail,
        cuts=pruning.cuts,
        compressors=compressors_of(config),
        deployed=deployed_of(config) if 0 < cut < len(model) else None,
        pruner=pruning.pruner,
        adapters=None,
        personal=None,
        client_optimizer=client,
        client_rate=client_rate,
        proximal=config.proximal,
        server_optimizer=server,
        positions=None if model[0].lengths is None else image.shape[0],
        classes=classes,
        clients=config.clients,
        participants=config.participants or config.clients,
        group_sizes=pruning.group_sizes,
        local_steps=config.local_steps,
        aggregate_every=config.aggregate_every,
        batch_size=config.batch_size,
        sampling=config.sampling,
        aggregation=config.aggregation,
        statistics=config.batch_norm_statistics,
        client_optimizer_state=config.client_optimizer_state,
        client_state=config.client_state,
        collective_bits=config.collective_bits,
        slots=slots,
        chunk=config.client_chunk
        or default_chunk(platform_of(slots.mesh), initial.params[:cut], config.clients),
        augment=AUGMENTATIONS[config.augment],
        dtype=jnp.dtype(config.compute_dtype),
        integers=config.client_backward == "int8",
        remat=config.remat_clients,
        algorithm=ALGORITHMS[config.algorithm],
        options={},
        auxiliary=(),
        task=task,
        radio=None,
    )
