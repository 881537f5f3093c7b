"""Predicted rounds, seconds and joules of every setting, from the bound or from measured rounds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.planner.estimates import RoundCosts
from jfedsl.theory.bound import Constants, Effects, Setting, best_step_size, bound, steps_needed

MAX_STEPS = 2**31 - 1  # a run counts exchanges in int32
_BISECTIONS = 48


class Predictions(NamedTuple):
    """The predicted training of every setting, float64 `[n]`.

    Attributes:
      rounds: number of rounds, in whole periods; inf where the goal is out of reach.
      seconds: simulated seconds of all rounds.
      joules: joules of all rounds.
      bound: on the average squared gradient norm after all rounds; NaN where rounds were measured.
      step_size: gamma.
    """

    rounds: np.ndarray
    seconds: np.ndarray
    joules: np.ndarray
    bound: np.ndarray
    step_size: np.ndarray


def whole_periods(rounds: np.ndarray, period: np.ndarray, up: bool = True) -> np.ndarray:
    """Rounds rounded up or down to whole periods; infinite values stay infinite."""
    return (np.ceil if up else np.floor)(rounds / period) * period


def to_target(
    costs: RoundCosts, constants: Constants, effects: Effects, setting: Setting, target: float,
    tune: bool,
) -> Predictions:  # fmt: skip
    """Predicts training until the bound is at most `target`.

    Args:
      costs: of one round of every setting.
      constants: of the problem.
      effects: of compression in every setting.
      setting: the settings; each field is a number or `[n]`, and `steps` is not read.
      target: squared gradient norm.
      tune: whether to choose the step sizes with which the fewest steps are needed, instead of
        those of `setting`.
    """
    find = _tuned_steps if tune else _steps
    steps, gamma = map(_array, find(constants, effects, setting, target))
    rounds = whole_periods(steps / costs.local_steps, costs.period)
    rounds = np.where(rounds * costs.local_steps <= MAX_STEPS, rounds, np.inf)
    return _after(costs, constants, effects, setting._replace(step_size=gamma), rounds)


def within(
    costs: RoundCosts, constants: Constants, effects: Effects, setting: Setting,
    max_rounds: np.ndarray, tune: bool,
) -> Predictions:  # fmt: skip
    """Predicts training for as many whole periods as `max_rounds`, `[n]`, allow.

    The other arguments are those of `to_target`; `tune` chooses the step size of the least bound.
    """
    max_rounds = np.minimum(max_rounds, MAX_STEPS // costs.local_steps)
    rounds = whole_periods(max_rounds, costs.period, up=False)
    rounds = np.where(rounds > 0, rounds, np.inf)
    if tune:
        setting = setting._replace(steps=_finite_steps(rounds, costs))
        gamma = _array(best_step_size(constants, effects, setting))
        setting = setting._replace(step_size=gamma)
    return _after(costs, constants, effects, setting, rounds)


def as_measured(costs: RoundCosts, rounds: np.ndarray, step_size: float) -> Predictions:
    """Predictions from measured rounds to a target, `[n]`, rounded up to whole periods."""
    rounds = whole_periods(rounds, costs.period)
    return Predictions(
        rounds,
        rounds * costs.seconds,
        rounds * costs.joules,
        np.full(rounds.shape, np.nan),
        np.full(rounds.shape, step_size),
    )


def _after(
    costs: RoundCosts, constants: Constants, effects: Effects, setting: Setting, rounds: np.ndarray
) -> Predictions:
    """The predictions for training of so many rounds, `[n]`."""
    setting = setting._replace(steps=_finite_steps(rounds, costs))
    total = _array(bound(constants, effects, setting).total)
    return Predictions(
        rounds,
        rounds * costs.seconds,
        rounds * costs.joules,
        np.where(np.isfinite(rounds), total, np.inf),
        np.broadcast_to(_array(setting.step_size), rounds.shape),
    )


def _finite_steps(rounds: np.ndarray, costs: RoundCosts) -> np.ndarray:
    """Exchanges in so many rounds; those of one round where rounds are infinite."""
    return np.where(np.isfinite(rounds), rounds, 1.0) * costs.local_steps


def _steps(
    constants: Constants, effects: Effects, setting: Setting, target: float
) -> tuple[Any, Any]:
    """The fewest steps to the target with the step sizes of the settings, and these sizes."""
    return steps_needed(constants, effects, setting, target), setting.step_size


@jax.jit
def _tuned_steps(
    constants: Constants, effects: Effects, setting: Setting, target: float
) -> tuple[Array, Array]:
    """The fewest steps to the target with any step size, and that step size, by bisection."""

    def reaches_target(log_steps: Array) -> tuple[Array, Array]:
        after = setting._replace(steps=jnp.exp(log_steps))
        gamma = best_step_size(constants, effects, after)
        total = bound(constants, effects, after._replace(step_size=gamma)).total
        return total <= target, gamma

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        enough = reaches_target(middle)[0]
        return jnp.where(enough, ends[0], middle), jnp.where(enough, middle, ends[1])

    most = jnp.full(jnp.shape(setting.cut), float(np.log(MAX_STEPS)))
    high = lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(most), most))[1]
    enough, gamma = reaches_target(high)
    return jnp.where(enough, jnp.exp(high), jnp.inf), gamma


def best(objective: np.ndarray, allowed: np.ndarray) -> int | None:
    """The first index of the least finite objective among the allowed settings `[n]`, if any."""
    finite = np.where(allowed & np.isfinite(objective), objective, np.inf)
    return int(np.argmin(finite)) if np.isfinite(finite).any() else None


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)
