"""The studies of the paper: pruning, bits, dropout, cut, period, ablation, rivals, unequal data.

jfedsl study paper --preset=paper_fashion
jfedsl study paper --only=ablation,rivals

As soon as the runs of a question are finished, NAME.png, NAME.pdf and NAME.csv are written into
--workdir, and its table into tables.md. A run that several questions share is trained once. The
same command resumes an interrupted study.
"""

import dataclasses

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.paper import conduct
from jfedsl.studies.questions import default_cuts, rates_of
from jfedsl.studies.study import seeds_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)
    flags.DEFINE_list(
        "only", [], "Questions to ask, such as ablation,rivals. Default: all.", values
    )
    flags.DEFINE_list(
        "cuts",
        [],
        "Cuts to compare. Default: after the model's first poolings, or from its cut on.",
        values,
    )
    flags.DEFINE_list("rates", [], "Learning rates of rivals, ALGORITHM=RATE.", values)


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings, draws the figures and prints the tables."""
    seeds, rates = seeds_of(given.seeds), rates_of(given.rates)
    base = dataclasses.replace(config, workdir=config.workdir or "runs/paper_study")
    print(f"\n{conduct(base, given.cuts or default_cuts(base), seeds, rates, given.only)}")


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
