"""The studies of the paper: pruning, bits, dropout, cut, period, ablation, rivals, unequal data.

python experiments/paper_study.py --flagfile=experiments/studies/paper_fashion.flags
python experiments/paper_study.py --only=ablation,rivals

As soon as the runs of a question are finished, NAME.png, NAME.pdf and NAME.csv are written into
--workdir, and its table into tables.md. A run that several questions share is trained once. The
same command resumes an interrupted study.
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
import dataclasses

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.paper import conduct
from jfedsl.studies.questions import default_cuts, rates_of
from jfedsl.studies.study import seeds_of

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.")
_ONLY = flags.DEFINE_list("only", [], "Questions to ask, such as ablation,rivals. Default: all.")
_CUTS = flags.DEFINE_list(
    "cuts", [], "Cuts to compare. Default: after the model's first poolings, or from its cut on."
)
_RATES = flags.DEFINE_list("rates", [], "Learning rates of rivals, ALGORITHM=RATE.")


def main(config: Config) -> None:
    """Trains all settings, draws the figures and prints the tables."""
    seeds, rates = seeds_of(_SEEDS.value), rates_of(_RATES.value)
    base = dataclasses.replace(config, workdir=config.workdir or "runs/paper_study")
    print(f"\n{conduct(base, _CUTS.value or default_cuts(base), seeds, rates, _ONLY.value)}")


if __name__ == "__main__":
    run(main, one_run=False)
