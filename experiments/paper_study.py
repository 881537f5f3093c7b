"""The questions of the paper: pruning, bits, dropout, cut, period, ablation, rivals, unequal data.

python experiments/paper_study.py --flagfile=experiments/studies/paper_fashion.flags

Every question leaves NAME.png, NAME.pdf and NAME.csv in --workdir, and a table in tables.md. A run
that several questions share is trained once; the same command goes on after an interruption.
"""

from absl import flags

from jfedsl.config import Config
from jfedsl.paper import conduct, rates_of
from jfedsl.runtime.script import run
from jfedsl.study import seeds_of

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.")
_CUTS = flags.DEFINE_list("cuts", ["pool1", "pool2", "pool3"], "Cuts to compare.")
_RATES = flags.DEFINE_list("rates", [], "Learning rates of rivals, ALGORITHM=RATE.")


def main(config: Config) -> None:
    """Trains all settings, draws and prints."""
    seeds, rates = seeds_of(_SEEDS.value), rates_of(_RATES.value)
    print(conduct(config, _CUTS.value, seeds, rates))


if __name__ == "__main__":
    run(main, one_run=False)
