"""Trains a grid of settings and seeds, one run after another; results.csv has a row for each run.

jfedsl sweep --workdir=runs/sweep --vary="local_steps=1 5" --seeds=0,1,2 --case="light:"
    --case="plain: --algorithm=sfl_v1"

All other flags apply to every run. The same command resumes an interrupted sweep. --shard=i/n
trains one of n parts of the grid, so that n processes, or machines with a shared folder, divide it.
"""

import sys

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.configs import seeds_of
from jfedsl.studies.sweep import conduct, grid, shard_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_multi_string("case", [], "A named setting, NAME: --flag=value ...", values)
    flags.DEFINE_multi_string(
        "vary", [], "A flag with values to combine, flag=value value ...", values
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds of every setting.", values)
    flags.DEFINE_string("shard", "1/1", "Part of the runs to train, i/n.", values)


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains the runs of the shard that are not finished yet."""
    seeds, shard = seeds_of(given.seeds), shard_of(given.shard)
    settings = grid(config, given.case, given.vary)
    if conduct(config, settings, seeds, shard):
        sys.exit(1)


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
