"""Trains a grid of settings and seeds, one run after another; results.csv has a row for each run.

python experiments/sweep.py --workdir=runs/sweep --vary="local_steps=1 5" --seeds=0,1,2
    --case="light:" --case="plain: --algorithm=sfl_v1"

All other flags apply to every run. The same command resumes an interrupted sweep. --shard=i/n
trains one of n parts of the grid, so that n processes, or machines with a shared folder, divide it.
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
import sys

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.study import seeds_of
from jfedsl.studies.sweep import conduct, grid, shard_of

_CASES = flags.DEFINE_multi_string("case", [], "A named setting, NAME: --flag=value ...")
_VARY = flags.DEFINE_multi_string("vary", [], "A flag with values to combine, flag=value value ...")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of every setting.")
_SHARD = flags.DEFINE_string("shard", "1/1", "Part of the runs to train, i/n.")


def main(config: Config) -> None:
    """Trains the runs of the shard that are not finished yet."""
    seeds, shard = seeds_of(_SEEDS.value), shard_of(_SHARD.value)
    settings = grid(config, _CASES.value, _VARY.value)
    if conduct(config, settings, seeds, shard):
        sys.exit(1)


if __name__ == "__main__":
    run(main, one_run=False)
