"""Compares the convergence bound, term by term, with the measured mean squared gradient norm.

jfedsl study bound --preset=bound_digits

Varies one setting at a time: steps between aggregations, cut, prune rate, gradient bits, dropout
rate. First a short pilot run predicts the bound of every setting (predicted.csv), then all settings
are trained. Writes a table and a figure into --workdir. The same command resumes an interrupted
study.
"""

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.bound import BoundStudy, conduct
from jfedsl.studies.bound_prediction import PilotPlan
from jfedsl.studies.bound_settings import Sweeps
from jfedsl.studies.configs import Changes, seeds_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)
    text = "Rounds of the pilot run that predicts the bound of every setting."
    flags.DEFINE_integer("pilot_rounds", 20, text, lower_bound=1, flag_values=values)
    text = "Seed of the pilot run, not one of --seeds."
    flags.DEFINE_integer("pilot_seed", 1000, text, lower_bound=0, flag_values=values)
    flags.DEFINE_list("cuts", [], "Cuts to compare; default none.", values)


def _prune_rate(rate: float) -> Changes:
    return {"prune_kind": "mask", "prune_rate": (rate,)} if rate else {"prune_kind": "none"}


def _bits(bits: int) -> Changes:
    return {"cut_gradient_bits": bits, "client_gradient_bits": bits}


def _dropout_rate(rate: float) -> Changes:
    return {"dropout_rate": rate}


def sweeps_of(cuts: list[str]) -> Sweeps:
    """What is varied, one setting at a time; a cut only if some are given."""
    periods, rates = (1, 2, 4, 8, 16), (0, 0.1, 0.2, 0.4, 0.6, 0.8)
    sweeps: dict[str, dict[str, Changes]] = {
        "steps between aggregations": {str(i): {"aggregate_every": i} for i in periods},
        "prune rate": {str(rate): _prune_rate(rate) for rate in rates},
        "gradient bits": {str(bits): _bits(bits) for bits in (2, 3, 4, 8, 32)},
        "dropout rate": {str(rate): _dropout_rate(rate) for rate in (0, 0.1, 0.2, 0.4, 0.6)},
        "together": {
            "none": {**_prune_rate(0), **_bits(32), **_dropout_rate(0), "smashed_bits": 32},
            "all": {**_prune_rate(0.3), **_bits(8), **_dropout_rate(0.2)},
        },
    }
    if cuts:
        sweeps["cut"] = {cut: {"cut": cut} for cut in cuts}
    return sweeps


def study_of(config: Config, given: flags.FlagValues) -> BoundStudy:
    """The study that the flags ask for.

    Raises:
      UserError: a seed is no seed.
    """
    plan = PilotPlan(given.pilot_rounds, given.pilot_seed)
    return BoundStudy(config, sweeps_of(given.cuts), seeds_of(given.seeds), plan)


def main(config: Config, given: flags.FlagValues) -> None:
    """Predicts and trains all settings and prints the table."""
    conduct(study_of(config, given))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
