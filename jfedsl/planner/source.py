"""The bound's constants from a measured run, and what they predict for other settings."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.files.paths import local
from jfedsl.planner import estimates
from jfedsl.planner.estimates import Estimates
from jfedsl.run import constants_recorder
from jfedsl.run.assemble import build
from jfedsl.run.convergence import constants_of
from jfedsl.run.storage.workdir import read_config
from jfedsl.theory.bound import Constants, Effects

# If one of these flags differs, the constants are those of another problem.
_PROBLEM = ("dataset", "model", "norm", "task", "loss")


class MeasuredRun(NamedTuple):
    """A run in which the bound's constants were measured.

    Attributes:
      config: of the run.
      constants: of its problem.
      effects: of its compression.
      pruned_everywhere: share of the client-side weights that no client of the run keeps.
      workdir: of the run.
    """

    config: Config
    constants: Constants
    effects: Effects
    pruned_everywhere: float
    workdir: str = ""


def measured_run(base: Config, workdir: str) -> MeasuredRun:
    """Reads the constants that a run measured, for the problem of `base`.

    Raises:
      UserError: the folder has no run with measurements, or one of another problem.
    """
    folder = local("constants", workdir)
    run = read_config(folder, base.plugin)
    rows = constants_recorder.read(folder / constants_recorder.MEASURED)
    if run is None or not any("beta" in row for row in rows):
        allowed = "the workdir of a run with --measure_constants_every"
        raise flag_error("constants", workdir, allowed)
    for name in _PROBLEM:
        if getattr(run, name) != getattr(base, name):
            allowed = f"a run with --{name}={getattr(base, name)}"
            reason = f"that run has --{name}={getattr(run, name)}"
            raise flag_error("constants", workdir, allowed, reason=reason)
    constants, effects = constants_of(rows)
    partial = base.participants not in (None, base.clients)
    _refuse_unknown(workdir, constants if partial else constants._replace(dissimilarity=0.0))
    pruned_everywhere = 0.0
    if run.pruning != "none":
        experiment = build(dataclasses.replace(run, data_dir=base.data_dir))
        start = estimates.period_start(experiment)
        statistics = estimates.initial_mask_statistics(experiment, start)
        pruned_everywhere = float(statistics.pruned_everywhere)
    return MeasuredRun(run, constants, effects, pruned_everywhere, workdir)


def constants_for(source: MeasuredRun, some: bool) -> Constants:
    """The constants for settings of which some have fewer participants in a step than clients.

    Raises:
      UserError: the measured run did not see how clients' gradients differ, which they need.
    """
    if not some:
        return source.constants._replace(dissimilarity=0.0)  # the bound multiplies it by 0
    _refuse_unknown(source.workdir, source.constants)
    return source.constants


def _refuse_unknown(workdir: str, constants: Constants) -> None:
    unknown = [k for k, v in constants._asdict().items() if not np.isfinite(v).all()]
    if unknown:
        allowed, reason = "a run that measured all constants", f"it lacks {', '.join(unknown)}"
        raise flag_error("constants", workdir, allowed, reason=reason)


def predicted_effects(
    source: MeasuredRun, estimated: Estimates, configs: Sequence[Config]
) -> Effects:
    """Predicts what compression does to gradients in every setting, `[n]`.

    - rho and coverage are those of the setting's masks on the initial weights.
    - phi is proportional to the share of weights that no client keeps. The factor is that of the
      measured run if it pruned. Otherwise the expected gradient is taken to be spread evenly over
      the weights (small weights need not have small gradients, so rho does not give phi).
    - chi is that of the run where masks differ between clients, and 0 where they are equal.
    - q is that of Gaussian vectors, see `estimates.estimate`.
    - eps_d is proportional to (d / (1 - d))^2, with d the dropout rate: to second order the bias is
      proportional to the variance that dropout gives an activation, d / (1 - d) times its square.
      If the measured run had no dropout, it is that run's own, of the activation's other
      compressors. If it had, a setting without dropout has none.

    Args:
      source: the measured run.
      estimated: of all settings.
      configs: of all settings.

    Raises:
      UserError: a setting has dropout, but the measured run had none, so its bias is unknown.
    """
    constants, run = source.constants, source.effects
    last = np.maximum(estimated.cut, 1).astype(int) - 1
    expected, moment = (np.cumsum(x)[last] for x in (constants.expected, constants.moment))
    masks = estimated.masks
    pruned_everywhere, coverage = np.asarray(masks.pruned_everywhere), np.asarray(masks.coverage)
    spread_evenly = np.asarray(expected / np.where(moment > 0, moment, 1.0))
    measured = source.pruned_everywhere
    factor = np.asarray(run.phi) / measured if measured else spread_evenly
    dropout = np.array([estimates.squared_dropout_variance(config) for config in configs])
    run_dropout = estimates.squared_dropout_variance(source.config)
    if dropout.any() and not run_dropout:
        first = configs[int(np.argmax(dropout > 0))]
        reason = "the run of --constants had no dropout, so the bias of dropout is unknown"
        if first.smashed:
            raise flag_error("smashed", first.smashed, "without dropout", reason=reason)
        raise flag_error("dropout_rates", first.dropout_rate, "0", reason=reason)
    return Effects(
        rho=np.asarray(masks.rho),
        phi=np.minimum(factor * pruned_everywhere, 1.0),
        chi=np.where(coverage < 1, run.chi, 0.0),
        q=estimated.q,
        eps_d=run.eps_d * (dropout / run_dropout if run_dropout else np.ones_like(dropout)),
        coverage=np.where(coverage > 0, coverage, 1.0),  # 0 where a setting is impossible
    )
