"""What a measured run tells of the problem, and of effects under other settings."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.files.paths import local
from jfedsl.planner import survey as planning
from jfedsl.planner.survey import Survey
from jfedsl.run import constants_recorder
from jfedsl.run.assemble import build
from jfedsl.run.convergence import constants_of
from jfedsl.run.storage.workdir import read_config
from jfedsl.theory.bound import Constants, Effects

# Settings without which constants are those of another problem.
_PROBLEM = ("dataset", "model", "norm")


class Measured(NamedTuple):
    """What a run with this config told; `alone` is the share of weights that none of it kept."""

    config: Config
    constants: Constants
    effects: Effects
    alone: float


def measured(base: Config, workdir: str) -> Measured:
    """What a run's measurements say of the problem of `base`.

    Raises:
      UserError: no run with measurements there, or one of another problem.
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
    if base.participants in (None, base.clients):
        constants = constants._replace(dissimilarity=0.0)  # nothing hangs on it
    unknown = [k for k, v in constants._asdict().items() if not np.isfinite(v).all()]
    if unknown:
        allowed, reason = "a run that measured all constants", f"it lacks {', '.join(unknown)}"
        raise flag_error("constants", workdir, allowed, reason=reason)
    alone = 0.0
    if run.pruning != "none":
        there = build(dataclasses.replace(run, data_dir=base.data_dir))
        alone = float(planning.masking_of(there, planning.start_of(there)).alone)
    return Measured(run, constants, effects, alone)


def effects_of(source: Measured, survey: Survey, configs: Sequence[Config]) -> Effects:
    """What compression is predicted to do to gradients under every setting, `[n]`.

    - rho and coverage are of the setting's masks on the initial weights.
    - phi grows with the share of weights that nobody keeps: from the run's phi, if that pruned,
      else as if the expected gradient lay evenly on all weights (small weights need not have small
      gradients, so rho says nothing of it).
    - chi is the run's where masks differ, 0 where they are alike.
    - q is that of Gaussian vectors, see `planning.survey`.
    - eps_d grows with (d / (1 - d))^2, d the dropout rate: to second order the bias is proportional
      to the variance that dropout gives an activation, d / (1 - d) times its square.

    Raises:
      UserError: dropout, though the run had none and so cannot tell its bias.
    """
    constants, run = source.constants, source.effects
    last = np.maximum(survey.cut, 1).astype(int) - 1
    expected, moment = (np.cumsum(x)[last] for x in (constants.expected, constants.moment))
    alone, least = np.asarray(survey.masking.alone), np.asarray(survey.masking.coverage)
    even = np.asarray(expected / np.where(moment > 0, moment, 1.0))
    each = np.asarray(run.phi) / source.alone if source.alone else even
    dropped, own = (
        np.array(list(map(planning.dropout_noise, configs))),
        planning.dropout_noise(source.config),
    )
    if dropped.any() and not own:
        rate = configs[int(np.argmax(dropped > 0))].dropout_rate or "0.2"
        reason = "the run of --constants had no dropout, so the bias of dropout is unknown"
        raise flag_error("dropout_rates", rate, "0", reason=reason)
    return Effects(
        rho=np.asarray(survey.masking.rho),
        phi=np.minimum(each * alone, 1.0),
        chi=np.where(least < 1, run.chi, 0.0),
        q=survey.q,
        eps_d=np.asarray(run.eps_d) * (dropped / own if own else dropped),
        coverage=np.where(least > 0, least, 1.0),  # 0: the setting cannot be
    )
