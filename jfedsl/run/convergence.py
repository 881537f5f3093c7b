"""The convergence bound of a run: its terms from measured constants, and its verdict."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jfedsl.compression.properties import has_memory, is_unbiased
from jfedsl.config import Config
from jfedsl.run.assemble import Experiment
from jfedsl.theory.bound import Constants, Effects, Setting, bound
from jfedsl.theory.verdict import verdict

_BETA_ALONG_STEPS = ("beta_step", "beta_taken", "beta_rise")  # smoothness along training steps
Row = dict[str, Any]  # a measurement: its round, and [value, standard error] by name


def step_size(config: Config) -> float:
    """gamma: the larger of the two learning rates; the theorem has only one."""
    return max(config.client_learning_rate, config.server_learning_rate)


def scope(config: Config) -> list[str]:
    """Settings that the theorem does not cover, as `name=value`, some with a reason."""
    covered = {
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
    beyond = [f"{k}={getattr(config, k)}" for k, v in covered.items() if getattr(config, k) != v]
    if config.norm == "batch":
        beyond.append("norm=batch (couples clients)")
    if config.norm == "group" and config.pruning == "channel":
        beyond.append("prune_kind=channel (changes what groups are normalised by)")
    partial = config.participants is not None and config.participants < config.clients
    if partial:
        beyond.append(
            f"participants={config.participants} (beta of f stands in for clients', the gradient "
            "of participants for that of f where nobody keeps a weight)"
        )
    if partial and config.aggregation != "equal":
        beyond.append(f"aggregation={config.aggregation} (participants' weights differ)")
    for name in ("outage_snr_db", "deadline_s"):
        if getattr(config, name) is not None:
            beyond.append(f"{name}={getattr(config, name):g} (who is missing differs by exchange)")
    compressors = config.compressors
    beyond += [f"{stream}={config.expressions[stream]}" for stream in ("model_up", "model_down")
              if compressors[stream]]  # fmt: skip
    for stream in ("cut_gradient", "client_gradient"):
        if not is_unbiased(compressors[stream]):
            beyond.append(f"{stream}={config.expressions[stream]} (biased)")
    if has_memory(compressors["smashed"], config.clients):
        beyond.append(f"smashed={config.expressions['smashed']} (remembers)")
    return beyond


def constants_of(rows: Sequence[Row]) -> tuple[Constants, Effects]:
    """The largest measured value of every constant, and the gap from the first f to the least.

    An estimate of a square below 0 counts as 0. Beta stands in for the secants (`beta_drift`,
    `beta_pruning`) where no measurement saw clients differ or weights pruned. A constant whose
    measurement failed is NaN.

    Args:
      rows: measurements in ascending order of rounds; at least one of all constants.
    """
    full = [row for row in rows if "beta" in row]

    def values(name: str) -> np.ndarray:
        # None becomes NaN. Earlier builds did not measure all of these.
        return np.array([row.get(name, [None])[0] for row in full], np.float64)

    def known(name: str) -> np.ndarray:
        """The largest value; NaN if any measurement of it failed."""
        return np.maximum(values(name).max(axis=0), 0.0)

    def seen(name: str, otherwise: float) -> float:
        """The largest value among the measurements that have one; `otherwise` if none has."""
        measured = values(name)[~np.isnan(values(name))]
        return max(float(measured.max()), 0.0) if measured.size else otherwise

    losses = np.array([row["loss"][0] for row in rows], np.float64)
    coverage = float(values("coverage").min())
    along = max(seen(name, 0.0) for name in _BETA_ALONG_STEPS)
    beta = float(np.maximum(known("beta"), along))
    constants = Constants(
        gap=float(losses[0] - losses.min()),
        beta=beta,
        beta_drift=seen("beta_drift", beta / coverage**0.5),
        beta_pruning=seen("beta_pruning", beta / coverage**0.5),
        beta_clients=beta,
        variance=jnp.asarray(known("variance"), jnp.float32),
        moment=jnp.asarray(known("moment"), jnp.float32),
        expected=jnp.asarray(known("expected"), jnp.float32),
        weight=jnp.asarray(known("weight"), jnp.float32),
        dissimilarity=seen("dissimilarity", float("nan")),
    )
    # They are shares of norms; where the norm is 0 they were not measured, and count as 0.
    effects = {name: seen(name, 0.0) for name in ("rho", "phi", "chi", "q", "eps_d")}
    return constants, Effects(**effects, coverage=coverage)


def setting_of(config: Config, experiment: Experiment, rounds: int) -> Setting:
    """The quantities in the bound that a run chooses.

    Args:
      config: settings.
      experiment: the run, put together.
      rounds: rounds that the bound is about.
    """
    spec = experiment.spec
    sizes = np.asarray(experiment.data.partition.sizes)
    largest, drift = 1.0 / spec.participants, spec.algorithm.drift(spec, sizes)
    if spec.aggregation == "examples":
        largest *= float(sizes.max() / sizes.mean())
    return Setting(
        cut=spec.cut,
        step_size=step_size(config),
        steps=rounds * spec.local_steps,
        period=spec.local_steps * drift.rounds,
        clients=spec.clients,
        participants=spec.participants,
        largest_weight=largest,
        edge_period=spec.local_steps * drift.edge_rounds,
        edge_weight=drift.edge_weight,
        server_drifts=float(drift.server_drifts),
    )


def unseen(rows: Sequence[Row], setting: Setting) -> list[str]:
    """Terms of the bound for which the measurements have no value, as text."""
    full, missing = [row for row in rows if "beta" in row], []
    if setting.period != 1 and all(row["beta_drift"][0] is None for row in full):
        missing.append("drift not seen, as every measurement ended a period (beta of f stands in)")
    if setting.participants != setting.clients and full[0]["dissimilarity"][0] is None:
        missing.append("dissimilarity not seen, with one participant")
    return missing


def report(config: Config, experiment: Experiment, rows: Sequence[Row]) -> dict[str, Any]:
    """The bound beside the measured gradient, from the first measurement at a period's start on.

    Args:
      config: settings.
      experiment: the run, put together.
      rows: at least two measurements in ascending order of rounds, one of them of all constants.

    Returns:
      Plain values; a number that is not finite is None.
        verdict: whether the bound holds, see `jfedsl.theory.verdict.verdict`.
        beyond_the_theorem: settings that make the bound a heuristic, as text.
        average, largest: of the measured squared gradient norm; the average by the trapezoidal
          rule.
        bound, terms: the bound and its terms; the square of the sum of biases is shared out among
          the biases.
        bound_over_measured: the bound divided by the average.
        with_one_beta: the bound with beta in stream of the secants.
        steepness: gamma times beta.
        measurements: how many there are.
    """
    spec, sizes = experiment.spec, np.asarray(experiment.data.partition.sizes)
    drift = spec.algorithm.drift(spec, sizes)
    rows, amiss = _from_a_start(drift.rounds, rows)
    squares = np.array([row["squared_gradient"][0] for row in rows], np.float64)
    times = [row["round"] for row in rows]
    average = float(np.trapezoid(squares, times) / (times[-1] - times[0]))
    constants, effects = constants_of(rows)
    setting = setting_of(config, experiment, times[-1] - times[0])
    if setting.participants == setting.clients:
        constants = constants._replace(dissimilarity=0.0)  # its term has factor 0
    terms = bound(constants, effects, setting)
    coarse = jnp.asarray(constants.beta) / jnp.sqrt(effects.coverage)
    uniform = constants._replace(beta_drift=coarse, beta_pruning=coarse)
    total, largest = float(terms.total), float(squares.max())
    steepness = float(jnp.asarray(constants.beta) * setting.step_size)
    return {
        "verdict": str(verdict(total, average, largest, steepness)),
        "beyond_the_theorem": [*scope(config), *drift.beyond, *unseen(rows, setting), *amiss],
        "average": _finite(average),
        "largest": _finite(largest),
        "bound": _finite(total),
        "bound_over_measured": over_measured(total, average),
        "terms": {name: _finite(value) for name, value in terms.shares._asdict().items()},
        "with_one_beta": _finite(bound(uniform, effects, setting).total),
        "steepness": _finite(steepness),
        "measurements": len(rows),
    }


def over_measured(bound: float | None, average: float | None) -> float | None:
    """The bound divided by the measured average; None if either is unknown or the average is 0."""
    return _finite(bound / average) if bound is not None and average else None


def _from_a_start(period: int, rows: Sequence[Row]) -> tuple[Sequence[Row], list[str]]:
    """Measurements from the first one at the start of a period of so many rounds on.

    Without such a measurement, all of them, and a text that says so.
    """
    starts = [i for i, row in enumerate(rows) if row["round"] % period == 0]
    for start in starts:
        if len(rows) - start > 1 and any("beta" in row for row in rows[start:]):
            return rows[start:], []
    return rows, ["first measured inside of a period"]


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def table(report: dict[str, Any]) -> str:
    """The bound of a run in a few lines."""
    average, total, steep = (shown(report[key]) for key in ("average", "bound", "steepness"))
    lines = [
        f"average squared gradient norm {average}, bound {total}: {with_ratio(report)} "
        f"(gamma * beta {steep}, {report['measurements']} measurements)",
        *(f"  {name.replace('_', ' '):<20}{shown(v)}" for name, v in report["terms"].items()),
    ]
    beyond = report["beyond_the_theorem"]
    if beyond:
        lines.append(f"a heuristic here, beyond the theorem: {', '.join(beyond)}")
    return "\n".join(lines)


def with_ratio(report: dict[str, Any]) -> str:
    """The verdict on a run, and the bound divided by the measured average."""
    ratio = over_measured(report["bound"], report["average"])
    return f"{report['verdict']}, bound / measured {shown(ratio)}"


def shown(value: float | None) -> str:
    """A number with four significant digits."""
    return "not known" if value is None else f"{value:.4g}"
