"""The convergence bound of a run: its constants measured along the way, its terms, its verdict."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.build import Experiment
from jfedsl.compression.expression import Call
from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.protocol.state import State
from jfedsl.runtime.compilation import compiled
from jfedsl.runtime.workdir import write_atomically
from jfedsl.theory.bound import Constants, Effects, Setting, bound, verdict
from jfedsl.theory.measure import Measurement

Row = dict[str, Any]  # of a measurement: its round, and [value, standard error] by name
FILE = "constants.jsonl"


class Observer:
    """Measures the constants of a run every so many rounds, one line of constants.jsonl each."""

    def __init__(self, config: Config, experiment: Experiment, folder: Path, rounds: int) -> None:
        """Opens the file; lines past `rounds`, whole or torn, are cut off.

        Args:
          config: of the run; its `measure_constants_every` is set.
          experiment: of the run.
          folder: of the run.
          rounds: completed so far.
        """
        self._config, self._experiment, self._path = config, experiment, folder / FILE
        self._rows = [row for row in read(self._path) if row["round"] <= rounds]
        write_atomically(self._path, "".join(map(_line, self._rows)))
        self._measure: Any = None

    def observe(self, state: State, rounds: int) -> None:
        """Measures after `rounds` rounds, if that is due and not done."""
        config, experiment = self._config, self._experiment
        every = config.measure_constants_every
        assert every is not None
        due = rounds % every == 0 or rounds == config.rounds
        if not due or any(row["round"] == rounds for row in self._rows):
            return
        arguments = (experiment.data, experiment.key, state)
        if self._measure is None:
            self._measure = compiled(experiment.measure(step_size(config)), *arguments)
        row = {"round": rounds, **as_row(self._measure(*arguments))}
        with open(self._path, "a") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._rows.append(row)

    def report(self) -> dict[str, Any] | None:
        """The bound of the run so far, as `report`; None before two measurements."""
        rows = sorted(self._rows, key=lambda row: row["round"])
        return report(self._config, self._experiment, rows) if len(rows) > 1 else None


def read(path: Path) -> list[Row]:
    """Lines of a file of measurements; none if there is no file. A torn last line is none.

    Raises:
      UserError: another line cannot be read.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a file of measurements ({error})") from error


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def as_row(measurement: Measurement) -> Row:
    """A measurement as plain values: `[value, standard error]` by name, None for NaN."""
    found = jax.device_get(measurement)
    estimates = {**found._asdict(), **found.draws._asdict()}
    del estimates["draws"]
    return {name: [_plain(part) for part in pair] for name, pair in estimates.items()}


def _plain(value: Any) -> Any:
    values = np.asarray(value, np.float64)
    listed = [float(f"{x:.6g}") if np.isfinite(x) else None for x in values.ravel()]
    return listed if values.ndim else listed[0]


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
    """The largest value of every constant over the times measured.

    An estimate of a square below 0 counts as 0. Where clients were never seen apart, or nothing
    pruned, beta stands in for the secants.

    Args:
      rows: of measurements, at least one.
    """

    def most(name: str) -> np.ndarray:
        values = np.array([row[name][0] for row in rows], np.float64)  # None becomes NaN
        seen = np.where(np.isnan(values), -np.inf, values).max(axis=0)
        return np.maximum(seen, 0.0)

    losses = [row["loss"][0] for row in rows]
    coverage = min(row["coverage"][0] for row in rows)
    beta = float(max(most("beta"), most("beta_step")))

    def secant(name: str) -> float:
        seen = any(row[name][0] is not None for row in rows)
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
      `average` of the squared gradient norm, each measurement standing for the rounds up to the
      next, and the `largest`; the `bound` and its `terms` (biases with their part of the square of
      their sum); the bound with beta in place of the secants, `with_one_beta`; `steepness`, gamma
      times beta; the number of `measurements`.
    """
    squares = np.array([row["squared_gradient"][0] for row in rows], np.float64)
    lengths = np.diff([row["round"] for row in rows])
    average = float(np.sum(squares[:-1] * lengths) / np.sum(lengths))
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
