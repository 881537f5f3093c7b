"""The convergence bound of a run: its terms from measured constants, and its verdict."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.build import Experiment
from jfedsl.compression.expression import Call
from jfedsl.config import Config
from jfedsl.theory.bound import Constants, Effects, Setting, bound, verdict

Row = dict[str, Any]  # of a measurement: its round, and [value, standard error] by name


def step_size(config: Config) -> float:
    """gamma; where both halves differ, which the theorem does not know, the larger."""
    return max(config.client_learning_rate, config.server_learning_rate)


def scope(config: Config) -> list[str]:
    """Settings for which the bound is a heuristic only, as `name=value` with a reason."""
    wanted = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "learning_rate_schedule": "constant",
        "client_learning_rate": config.server_learning_rate,
        "sampling": "replacement",
        "augment": "none",
        "compute_dtype": "float32",
        "client_backward": "float",
    }
    found = [f"{k}={getattr(config, k)}" for k, v in wanted.items() if getattr(config, k) != v]
    if config.norm == "batch":
        found.append("norm=batch (couples clients)")
    if config.norm == "group" and config.prune_kind == "channel":
        found.append("prune_kind=channel (changes what groups are normalised by)")
    some = config.participants is not None and config.participants < config.clients
    if some:
        found.append(f"participants={config.participants} (beta of f stands in for clients')")
    if some and config.aggregation != "equal":
        found.append(f"aggregation={config.aggregation} (participants' weights differ)")
    if config.local_steps > 1 and config.aggregate_every == 1:
        found.append("aggregate_every=1 (drift within a round is not seen; beta stands in)")
    links = config.links
    found += [f"{place}={config.expressions[place]}" for place in ("model_up", "model_down")
              if links[place]]  # fmt: skip
    for place in ("cut_gradient", "client_gradient"):
        if not all(map(_is_unbiased, links[place])):
            found.append(f"{place}={config.expressions[place]} (biased)")
    if any(call.name == "feedback" for call in links["smashed"]):
        found.append(f"smashed={config.expressions['smashed']} (remembers)")
    return found


def _is_unbiased(call: Call) -> bool:
    """Whether a compressor's output is its input in expectation."""
    arguments = {name: str(value) for name, value in call.arguments.items()}
    nearest = arguments.get("rounding") == "nearest"
    clipped = float(arguments.get("clip", 0)) > 0
    return call.name in ("dropout", "uniform", "qsgd", "ternary") and not nearest and not clipped


def constants_of(rows: Sequence[Row]) -> tuple[Constants, Effects]:
    """The largest value of every constant over the times measured; the gap to the least f seen.

    An estimate of a square below 0 counts as 0. Where clients were never seen apart, or nothing
    pruned, beta stands in for the secants.

    Args:
      rows: of measurements, ascending; at least one of constants.
    """
    full = [row for row in rows if "beta" in row]

    def most(name: str) -> np.ndarray:
        values = np.array([row[name][0] for row in full], np.float64)  # None becomes NaN
        seen = np.where(np.isnan(values), -np.inf, values).max(axis=0)
        return np.maximum(seen, 0.0)

    losses = [row["loss"][0] for row in rows]
    coverage = min(row["coverage"][0] for row in full)
    beta = float(max(most("beta"), most("beta_step")))

    def secant(name: str) -> float:
        seen = any(row[name][0] is not None for row in full)
        return float(most(name)) if seen else beta / coverage**0.5

    constants = Constants(
        gap=losses[0] - min(losses),
        beta=beta,
        beta_drift=secant("beta_drift"),
        beta_pruning=secant("beta_pruning"),
        beta_clients=beta,
        variance=jnp.asarray(most("variance"), jnp.float32),
        moment=jnp.asarray(most("moment"), jnp.float32),
        expected=jnp.asarray(most("expected"), jnp.float32),
        weight=jnp.asarray(most("weight"), jnp.float32),
        dissimilarity=float(most("dissimilarity")),
    )
    effects = {name: float(most(name)) for name in ("rho", "phi", "chi", "q", "eps_d")}
    return constants, Effects(**effects, coverage=coverage)


def setting_of(config: Config, experiment: Experiment, rounds: int) -> Setting:
    """What a run of so many rounds has chosen."""
    scheme = experiment.scheme
    sizes: Array = experiment.data.partition.sizes
    largest = 1.0 / scheme.participants
    if scheme.aggregation == "examples":
        largest *= float(sizes.max() / sizes.mean())
    return Setting(
        cut=scheme.cut,
        step_size=step_size(config),
        steps=rounds * scheme.local_steps,
        period=scheme.local_steps * scheme.aggregate_every,
        clients=scheme.clients,
        participants=scheme.participants,
        largest_weight=largest,
    )


def report(config: Config, experiment: Experiment, rows: Sequence[Row]) -> dict[str, Any]:
    """The bound beside what was measured.

    Args:
      config: of the run.
      experiment: of the run.
      rows: of at least two measurements, ascending.

    Returns:
      Plain values: `verdict`; `beyond_the_theorem`, settings that make it a heuristic; the measured
      `average` of the squared gradient norm, by the trapezoidal rule, and the `largest`; the
      `bound` and its `terms` (biases with their part of the square of their sum); the bound with
      beta in place of the secants, `with_one_beta`; `steepness`, gamma times beta; the number of
      `measurements`.
    """
    squares = np.array([row["squared_gradient"][0] for row in rows], np.float64)
    times = [row["round"] for row in rows]
    average = float(np.trapezoid(squares, times) / (times[-1] - times[0]))
    constants, effects = constants_of(rows)
    setting = setting_of(config, experiment, rows[-1]["round"])
    terms = bound(constants, effects, setting)
    coarse = jnp.asarray(constants.beta) / jnp.sqrt(effects.coverage)
    uniform = constants._replace(beta_drift=coarse, beta_pruning=coarse)
    total, largest = float(terms.total), float(squares.max())
    steepness = float(jnp.asarray(constants.beta) * setting.step_size)
    return {
        "verdict": str(verdict(total, average, largest, steepness)),
        "beyond_the_theorem": scope(config),
        "average": average,
        "largest": largest,
        "bound": total,
        "terms": {name: float(value) for name, value in terms.shares._asdict().items()},
        "with_one_beta": float(bound(uniform, effects, setting).total),
        "steepness": steepness,
        "measurements": len(rows),
    }


def table(report: dict[str, Any]) -> str:
    """The bound of a run in a few lines."""
    lines = [
        f"average squared gradient norm {report['average']:.4g}, bound {report['bound']:.4g}: "
        f"{report['verdict']} (gamma * beta {report['steepness']:.2f}, "
        f"{report['measurements']} measurements)",
        *(f"  {name.replace('_', ' '):<20}{value:.4g}" for name, value in report["terms"].items()),
    ]
    beyond = report["beyond_the_theorem"]
    if beyond:
        lines.append(f"a heuristic here, beyond the theorem: {', '.join(beyond)}")
    return "\n".join(lines)
