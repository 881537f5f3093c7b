"""What settings of a run are predicted to take and to reach, and which of them is best."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.algorithms import fedsl
from jfedsl.compression import expression
from jfedsl.config import Config
from jfedsl.engine.period import end_period, start_period
from jfedsl.engine.state import RunSpec
from jfedsl.errors import UserError
from jfedsl.keys import Purpose, fold
from jfedsl.planner.expected import (
    LATE,
    Masking,
    Start,
    costs,
    expected_exchange,
    gradient_error,
    masking,
    noise_like,
)
from jfedsl.run.assemble import Experiment, build
from jfedsl.sharding.slots import assign_slots
from jfedsl.theory.bound import Constants, Effects, Setting, best_step_size, bound, steps_needed

MOST_STEPS = 2**31 - 1  # a run's counters are int32
_BISECTIONS = 48


def start_of(experiment: Experiment) -> Start:
    """A period from the initial weights on, with the real messages of both of its ends.

    Args:
      experiment: of the setting.
    """
    spec = experiment.spec
    sizes = tuple(len(members) for members in spec.pruner.groups)
    whole = spec._replace(participants=spec.clients, group_sizes=sizes, slots=assign_slots(sizes))

    def run(key: Array, initial: Any, image: Array) -> Start:
        state = fedsl.init(whole, key, initial, image)
        clients = state.clients.replace(batches_seen=jnp.ones_like(state.clients.batches_seen))
        # Compressors that pick entries by size need differences to pick from.
        noise = noise_like(clients.params, fold(key, Purpose.DEVICES, 7))
        if clients.received is not None:
            clients = clients.replace(received=jax.tree.map(jnp.add, clients.params, noise))
        state = state.replace(round=jnp.int32(LATE), clients=clients)
        state, down = start_period(whole, key, state)
        moved = jax.tree.map(jnp.add, state.clients.params, noise)
        trained = state.replace(clients=state.clients.replace(params=moved))
        up = end_period(whole, key, experiment.data.partition, trained)[1]
        by_number = jnp.argsort(state.participants)
        rows = (state.clients, *(8.0 * x.astype(jnp.float32) for x in (up, down)))
        return Start(*jax.tree.map(lambda x: x[by_number], rows))

    return jax.jit(run)(experiment.key, experiment.initial, experiment.image)


def masking_of(experiment: Experiment, start: Start) -> Masking:
    """What masks leave out of the initial weights."""
    spec, params = experiment.spec, experiment.initial.params
    return masking(spec, experiment.data.partition, params[: spec.cut], start.clients.masks)


def dropout_noise(config: Config) -> float:
    """Mean over clients of (d / (1 - d))^2 for the dropout rate d at the cut, squared."""
    rates = [c.arguments["rate"] for c in config.compressors["smashed"] if c.name == "dropout"]
    each = [rate.spread(config.clients, config.seed) for rate in rates]  # type: ignore[union-attr]
    return float(sum(np.mean((d / (1 - d)) ** 2) for d in each))


class Outlook(NamedTuple):
    """What every setting comes to, float64 `[n]`.

    Attributes:
      rounds: whole periods; inf where the goal is out of reach.
      seconds: of all of them.
      joules: likewise.
      bound: on the squared gradient norm after them; NaN where nobody asked for it.
      step_size: gamma.
    """

    rounds: np.ndarray
    seconds: np.ndarray
    joules: np.ndarray
    bound: np.ndarray
    step_size: np.ndarray


class Grid(NamedTuple):
    """What is known of every setting `[n]`: mean seconds and joules of a round, rounds a period."""

    seconds: np.ndarray
    joules: np.ndarray
    period: np.ndarray
    local_steps: int


class Survey(NamedTuple):
    """What is known of every setting before anything is asked of the bound.

    Attributes:
      grid: of the settings; inf where one cannot be.
      cut: how many layers are the clients', `[n]`.
      masking: with `[n]` in every field.
      q: of clients' gradients, `[n]`.
      errors: why a setting cannot be, by its index.
      experiment: of one that can be.
    """

    grid: Grid
    cut: np.ndarray
    masking: Masking
    q: np.ndarray
    errors: dict[int, UserError]
    experiment: Experiment


def survey(configs: np.ndarray) -> Survey:
    """Puts one experiment together for each cut and prune rate and asks it for all else.

    q joins two errors for Gaussian entries, (1 + q of the gradient at the cut) (1 + q of the
    weight gradient) - 1: back-propagation through the client's layers is linear, and taken to
    treat the error as it treats the gradient.

    Args:
      configs: of all settings, objects `[cuts, prune rates, periods, bits, dropout rates,
        allocations]`; settings are counted in this order.

    Raises:
      UserError: no setting can be; why the first cannot.
    """
    shape, kept = configs.shape, None
    errors: dict[int, UserError] = {}
    nothing = [np.full(shape, np.inf) for _ in range(3)] + [np.zeros(shape) for _ in range(4)]
    seconds, joules, q, cut, *masks = nothing
    number = np.arange(configs.size).reshape(shape)
    for place in np.ndindex(shape[:2]):
        block = configs[place]
        try:
            # Sharing the band needs bits, which differ from setting to setting.
            experiment = build(dataclasses.replace(block.flat[0], allocation="equal"))
        except UserError as error:
            errors |= dict.fromkeys(number[place].ravel().tolist(), error)
            continue
        kept = experiment
        start = start_of(experiment)
        found = masking_of(experiment, start)
        seconds[place], joules[place], q[place] = _block(experiment, start, block)
        cut[place] = experiment.spec.cut
        for array, value in zip(masks, found, strict=True):
            array[place] = value
    if kept is None:
        raise errors[0]
    period = np.array([config.aggregate_every for config in configs.flat], np.float64)
    grid = Grid(seconds.ravel(), joules.ravel(), period, kept.spec.local_steps)
    flat = [array.ravel() for array in masks]
    return Survey(grid, cut.ravel(), Masking(*flat), q.ravel(), errors, kept)


def _block(experiment: Experiment, start: Start, block: np.ndarray) -> list[np.ndarray]:
    """Mean seconds and joules of a round and q, `[periods, bits, drops, allocations]`."""
    spec, key, image = experiment.spec, experiment.key, experiment.image.shape
    _, bits, drops, _ = block.shape
    specs = [_with_compressors(spec, config) for config in block[0, :, :, 0].flat]
    sent = [expected_exchange(own, key, image) for own in specs]
    error = [np.mean(gradient_error(own, key, start.clients)) for own in specs[::drops]]
    at_cut = np.array([np.mean(one.error) for one in sent]).reshape(1, bits, drops, 1)
    q = (1 + at_cut) * (1 + np.reshape(error, (1, bits, 1, 1))) - 1
    up, down = (jnp.stack(rows) for rows in zip(*((s.up, s.down) for s in sent), strict=True))
    found = []
    for config in block[0, 0, 0]:
        assert spec.radio is not None
        own = spec._replace(radio=spec.radio._replace(allocation=config.allocation))
        found.append([np.reshape(x, (bits, drops)) for x in costs(own, key, start, up, down)])
    parts = np.moveaxis(np.array(found, np.float64), 0, -1)  # [4, bits, drops, allocations]
    every = np.array([config.aggregate_every for config in block[:, 0, 0, 0]])
    every = every.reshape(-1, 1, 1, 1)
    return [parts[0] + parts[1] / every, parts[2] + parts[3] / every, q]


def _with_compressors(spec: RunSpec, config: Config) -> RunSpec:
    """The run with a config's compressors of exchanges."""
    places = ("smashed", "cut_gradient", "client_gradient")
    calls, size, seed = config.compressors, config.clients, config.seed
    made = {place: expression.build(calls[place], size, seed) for place in places}
    return spec._replace(compressors={**spec.compressors, **made})


def whole_periods(rounds: np.ndarray, period: np.ndarray, up: bool = True) -> np.ndarray:
    """Rounds rounded to whole periods, up or down; what is infinite stays so."""
    return (np.ceil if up else np.floor)(rounds / period) * period


def to_target(
    grid: Grid, constants: Constants, effects: Effects, setting: Setting, target: float, tune: bool
) -> Outlook:
    """Every setting until the bound is at most `target`.

    Args:
      grid: of the settings.
      constants: of the problem.
      effects: of the settings.
      setting: of the settings, all fields numbers or `[n]`; `steps` is not read.
      target: squared gradient norm.
      tune: whether step sizes are the best ones for the steps that are needed, instead of those of
        `setting`.
    """
    find = _tuned_steps if tune else _steps
    steps, gamma = map(_array, find(constants, effects, setting, target))
    rounds = whole_periods(steps / grid.local_steps, grid.period)
    rounds = np.where(rounds * grid.local_steps <= MOST_STEPS, rounds, np.inf)
    return _outlook(grid, constants, effects, setting._replace(step_size=gamma), rounds)


def within(
    grid: Grid, constants: Constants, effects: Effects, setting: Setting, most: np.ndarray,
    tune: bool,
) -> Outlook:  # fmt: skip
    """Every setting for at most so many rounds `[n]`; see `to_target` for the others."""
    most = np.minimum(most, MOST_STEPS // grid.local_steps)
    rounds = whole_periods(most, grid.period, up=False)
    rounds = np.where(rounds > 0, rounds, np.inf)
    if tune:
        setting = setting._replace(steps=_at_least_one(rounds, grid))
        gamma = _array(best_step_size(constants, effects, setting))
        setting = setting._replace(step_size=gamma)
    return _outlook(grid, constants, effects, setting, rounds)


def as_measured(grid: Grid, rounds: np.ndarray, step_size: float) -> Outlook:
    """Every setting for as many rounds `[n]` as it was measured to need, up to whole periods."""
    rounds = whole_periods(rounds, grid.period)
    unknown = np.full(rounds.shape, np.nan)
    sizes = np.full(rounds.shape, step_size)
    return Outlook(rounds, rounds * grid.seconds, rounds * grid.joules, unknown, sizes)


def _outlook(
    grid: Grid, constants: Constants, effects: Effects, setting: Setting, rounds: np.ndarray
) -> Outlook:
    setting = setting._replace(steps=_at_least_one(rounds, grid))
    total = _array(bound(constants, effects, setting).total)
    return Outlook(
        rounds,
        rounds * grid.seconds,
        rounds * grid.joules,
        np.where(np.isfinite(rounds), total, np.inf),
        np.broadcast_to(_array(setting.step_size), rounds.shape),
    )


def _at_least_one(rounds: np.ndarray, grid: Grid) -> np.ndarray:
    return np.where(np.isfinite(rounds), rounds, 1.0) * grid.local_steps


def _steps(
    constants: Constants, effects: Effects, setting: Setting, target: float
) -> tuple[Any, Any]:
    return steps_needed(constants, effects, setting, target), setting.step_size


@jax.jit
def _tuned_steps(
    constants: Constants, effects: Effects, setting: Setting, target: float
) -> tuple[Array, Array]:
    """The fewest steps with which any step size brings the bound to the target, and that size."""

    def reached(logarithm: Array) -> tuple[Array, Array]:
        there = setting._replace(steps=jnp.exp(logarithm))
        gamma = best_step_size(constants, effects, there)
        total = bound(constants, effects, there._replace(step_size=gamma)).total
        return total <= target, gamma

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        enough = reached(middle)[0]
        return jnp.where(enough, ends[0], middle), jnp.where(enough, middle, ends[1])

    most = jnp.full(jnp.shape(setting.cut), float(np.log(MOST_STEPS)))
    high = lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(most), most))[1]
    enough, gamma = reached(high)
    return jnp.where(enough, jnp.exp(high), jnp.inf), gamma


def best(objective: np.ndarray, allowed: np.ndarray) -> int | None:
    """The first index of the least objective among those allowed `[n]`; None if there are none."""
    finite = np.where(allowed & np.isfinite(objective), objective, np.inf)
    return int(np.argmin(finite)) if np.isfinite(finite).any() else None


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)
