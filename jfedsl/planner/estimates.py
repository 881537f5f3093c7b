"""Estimates for every setting of a grid, without training: round costs, masks, quantization."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.compression import expression
from jfedsl.config import Config
from jfedsl.engine.initial import init
from jfedsl.engine.message_sizes import AFTER_RAMPS, noise_like
from jfedsl.engine.period import end_period, start_period
from jfedsl.engine.state import RunSpec
from jfedsl.errors import UserError
from jfedsl.keys import Purpose, fold
from jfedsl.planner import quorums
from jfedsl.planner.expected import (
    Costs,
    MaskStatistics,
    PeriodStart,
    costs,
    expected_exchange,
    gradient_error,
    mask_statistics,
)
from jfedsl.planner.waiting import waiting_costs
from jfedsl.run.assemble import Experiment, build
from jfedsl.sharding.slots import assign_slots

_EXCHANGED = ("smashed", "cut_gradient", "client_gradient")  # compressed in every exchange


def period_start(experiment: Experiment) -> PeriodStart:
    """A period that starts from the initial weights, with the sizes of its model messages.

    The download is sent for real; the upload is that of weights that noise has moved, because
    compressors that choose entries by size need differences to choose from.
    """
    spec = experiment.spec
    sizes = tuple(len(members) for members in spec.pruner.groups)
    whole = spec._replace(participants=spec.clients, group_sizes=sizes, slots=assign_slots(sizes))

    def run(key: Array, initial: Any, image: Array) -> PeriodStart:
        state = init(whole, key, initial, image)
        clients = state.clients.replace(batches_seen=jnp.ones_like(state.clients.batches_seen))
        noise = noise_like(clients.params, fold(key, Purpose.HARDWARE, 7))
        if clients.received is not None:
            clients = clients.replace(received=jax.tree.map(jnp.add, clients.params, noise))
        state = state.replace(round=jnp.int32(AFTER_RAMPS), clients=clients)
        state, down = start_period(whole, key, state)
        moved = jax.tree.map(jnp.add, state.clients.params, noise)
        trained = state.replace(clients=state.clients.replace(params=moved))
        up = end_period(whole, key, experiment.data.partition, trained)[1]
        by_number = jnp.argsort(state.participants)
        rows = (state.clients, *(8.0 * x.astype(jnp.float32) for x in (up, down)))
        return PeriodStart(*jax.tree.map(lambda x: x[by_number], rows))

    return jax.jit(run)(experiment.key, experiment.initial, experiment.image)


def initial_mask_statistics(experiment: Experiment, start: PeriodStart) -> MaskStatistics:
    """What the masks of a period remove from the initial weights."""
    spec, params = experiment.spec, experiment.initial.params
    partition, masks = experiment.data.partition, start.clients.masks
    return mask_statistics(spec, partition, params[: spec.cut], masks)


def squared_dropout_variance(config: Config) -> float:
    """Mean over clients of (d / (1 - d))^2, with d the dropout rate of a client at the cut."""
    calls = [call for call in config.compressors["smashed"] if call.name == "dropout"]
    rates = [call.arguments["rate"].spread(config.clients, config.device_seed) for call in calls]  # type: ignore[union-attr]
    return float(sum(np.mean((d / (1 - d)) ** 2) for d in rates))


class RoundCosts(NamedTuple):
    """Costs of one round for every setting.

    Attributes:
      seconds: mean simulated seconds of a round, `[n]`; inf where a setting is impossible.
      joules: mean joules of a round, `[n]`; likewise.
      period: rounds in an aggregation period, `[n]`.
      local_steps: exchanges in a round, of all settings.
    """

    seconds: np.ndarray
    joules: np.ndarray
    period: np.ndarray
    local_steps: int


class Estimates(NamedTuple):
    """What is known of every setting before the bound predicts how many rounds it needs.

    Attributes:
      costs: of one round.
      cut: number of client-side layers, `[n]`.
      masks: statistics of the masks, `[n]` in each field.
      q: relative error of quantized client gradients, `[n]`.
      errors: why a setting is impossible, by its index.
      experiment: of one setting that is possible.
    """

    costs: RoundCosts
    cut: np.ndarray
    masks: MaskStatistics
    q: np.ndarray
    errors: dict[int, UserError]
    experiment: Experiment


def estimate(configs: np.ndarray) -> Estimates:
    """Estimates every setting of a grid.

    Only cuts and pruning rates need an experiment each, because they change shapes and masks.

    q combines two errors for Gaussian entries: (1 + q of the gradient at the cut) (1 + q of the
    weight gradient) - 1. Back-propagation through the client's layers is linear, and is assumed to
    scale the error as it scales the gradient.

    Args:
      configs: of all settings, objects `[cuts, pruning rates, periods, bits, dropout rates,
        allocations, quorums]`. The results `[n]` have the order of the flattened array.

    Raises:
      UserError: every setting is impossible; the reason is that of the first.
    """
    shape, possible = configs.shape, None
    errors: dict[int, UserError] = {}
    seconds, joules, q = (np.full(shape, np.inf) for _ in range(3))
    cut, *masks = (np.zeros(shape) for _ in range(1 + len(MaskStatistics._fields)))
    index = np.arange(configs.size).reshape(shape)
    for at in np.ndindex(shape[:2]):
        block = configs[at]
        try:
            # --allocation=minmax needs message sizes, which differ within the block.
            first = quorums.waiting_for_all(block.flat[0])
            experiment = build(dataclasses.replace(first, allocation="equal"))
        except UserError as error:
            errors |= dict.fromkeys(index[at].ravel().tolist(), error)
            continue
        possible = experiment
        start = period_start(experiment)
        sizes, *numbers, errors_of_q = _estimate_block(experiment, start, block[..., 0])
        q[at] = errors_of_q[..., None]
        for k, config in enumerate(block[0, 0, 0, 0]):
            some = quorums.waits_for_some(config)
            if refused := quorums.error(experiment.spec, config) if some else None:
                errors |= dict.fromkeys(index[at][..., k].ravel().tolist(), refused)
                continue
            costs = _with_quorum(experiment, start, sizes, block[..., k]) if some else numbers
            seconds[at][..., k], joules[at][..., k] = costs
        cut[at] = experiment.spec.cut
        statistics = initial_mask_statistics(experiment, start)
        for array, value in zip(masks, statistics, strict=True):
            array[at] = value
    if possible is None:
        raise errors[0]
    period = np.array([config.aggregate_every for config in configs.flat], np.float64)
    round_costs = RoundCosts(seconds.ravel(), joules.ravel(), period, possible.spec.local_steps)
    statistics = MaskStatistics(*(array.ravel() for array in masks))
    return Estimates(round_costs, cut.ravel(), statistics, q.ravel(), errors, possible)


def _estimate_block(
    experiment: Experiment, start: PeriodStart, block: np.ndarray
) -> tuple[tuple[Array, Array], np.ndarray, np.ndarray, np.ndarray]:
    """Estimates settings that share a cut and a pruning rate.

    Args:
      experiment: with their cut and pruning rate.
      start: of a period of it.
      block: their configs, objects `[periods, bits, dropout rates, allocations]`.

    Returns:
      Bits of the messages up and down, `[bits * dropout rates, C]`; and mean seconds of a round,
      its mean joules, and q, each with the axes of `block`. The server waits for all.
    """
    spec, key, image = experiment.spec, experiment.key, experiment.image.shape
    _, bits, rates, _ = block.shape
    specs = [_with_compressors(spec, config) for config in block[0, :, :, 0].flat]
    messages = [expected_exchange(setting, key, image) for setting in specs]
    # Dropout does not change weight gradients, so one dropout rate is enough.
    at_weights = [np.mean(gradient_error(s, key, start.clients)) for s in specs[::rates]]
    at_cut = np.array([np.mean(m.error) for m in messages]).reshape(1, bits, rates, 1)
    q = (1 + at_cut) * (1 + np.reshape(at_weights, (1, bits, 1, 1))) - 1
    up, down = jnp.stack([m.up for m in messages]), jnp.stack([m.down for m in messages])
    of_allocations = []
    for config in block[0, 0, 0]:
        assert spec.radio is not None
        setting = spec._replace(radio=spec.radio._replace(allocation=config.allocation))
        of_settings = costs(setting, key, start, up, down)
        of_allocations.append([np.reshape(x, (bits, rates)) for x in of_settings])
    # [4, bits, dropout rates, allocations]
    parts = Costs(*np.moveaxis(np.array(of_allocations, np.float64), 0, -1))
    period = np.array([config.aggregate_every for config in block[:, 0, 0, 0]])
    period = period.reshape(-1, 1, 1, 1)
    seconds = np.asarray(parts.exchange_seconds + parts.model_seconds / period)
    joules = np.asarray(parts.exchange_joules + parts.model_joules / period)
    return (up, down), seconds, joules, q


def _with_quorum(
    experiment: Experiment, start: PeriodStart, sizes: tuple[Array, Array], block: np.ndarray
) -> np.ndarray:
    """Mean seconds and joules of rounds whose server does not wait for all.

    Args:
      experiment: with the cut and pruning rate of the block.
      start: of a period of it.
      sizes: from `_estimate_block`.
      block: configs with one quorum, objects `[periods, bits, dropout rates, allocations]`.

    Returns:
      Seconds and joules, `[2, periods, bits, dropout rates, allocations]`.
    """
    spec, first = experiment.spec, block.flat[0]
    periods = jnp.array([config.aggregate_every for config in block[:, 0, 0, 0]], jnp.int32)
    rows = [jnp.tile(x, (len(periods), 1)) for x in sizes]
    each_period = jnp.repeat(periods, len(sizes[0]))
    of_allocations = []
    for config in block[0, 0, 0]:
        assert spec.radio is not None
        setting = spec._replace(radio=spec.radio._replace(allocation=config.allocation))
        most_missed, messages = first.max_staleness, (rows[0], rows[1])
        of_allocations.append(
            waiting_costs(
                setting, experiment.key, start, messages, each_period, first.quorum, most_missed
            )
        )
    by_setting = np.array(of_allocations, np.float64).reshape(-1, 2, *block.shape[:3])
    return np.moveaxis(by_setting, 0, -1)


def _with_compressors(spec: RunSpec, config: Config) -> RunSpec:
    """The spec with the compressors that a config has for the messages of an exchange."""
    calls = {name: config.compressors[name] for name in _EXCHANGED}
    built = {
        name: expression.build(call, config.clients, config.device_seed)
        for name, call in calls.items()
    }
    return spec._replace(compressors={**spec.compressors, **built})
