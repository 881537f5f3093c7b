"""Accuracy against bytes for compressors of the activation and the gradient at the cut.

python experiments/compression_study.py --flagfile=experiments/studies/compression.flags

Settings are grouped by the bytes they send at the cut: a fourth, an eighth, a sixteenth of float32.
Writes a table and a figure into --workdir. The same command resumes an interrupted study.
"""

from jfedsl.run import startup  # noqa: F401 (first: what follows takes seconds)

# isort: split
from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.studies.columns import Column, megabytes
from jfedsl.studies.study import Changes, conduct, seeds_of

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.")


def _at_the_cut(up: str, down: str) -> Changes:
    return {"smashed": up, "cut_gradient": down}


SETTINGS: dict[str, Changes] = {
    "none": _at_the_cut("none", "none"),
    "1/4 8 bit": _at_the_cut("uniform(8)", "uniform(8)"),
    "1/4 dropout": _at_the_cut("dropout(0.75)", "none"),
    "1/4 top-k": _at_the_cut("topk(0.238,each=example)", "none"),
    "1/4 RandTopk": _at_the_cut("randtopk(0.238,each=example)", "none"),
    "1/4 SplitFC dropout": _at_the_cut("splitfc(0.75)", "none"),
    "1/8 4 bit": _at_the_cut("uniform(4)", "uniform(4)"),
    "1/8 dropout, 8 bit": _at_the_cut("dropout(0.5)|uniform(8)", "uniform(8)"),
    "1/8 top-k, 8 bit": _at_the_cut("topk(0.44,each=example)|uniform(8)", "uniform(8)"),
    "1/8 RandTopk, 8 bit": _at_the_cut("randtopk(0.44,each=example)|uniform(8)", "uniform(8)"),
    "1/8 SplitFC dropout, 8 bit": _at_the_cut("splitfc(0.5)|uniform(8)", "uniform(8)"),
    "1/16 2 bit": _at_the_cut("uniform(2)", "uniform(2)"),
    "1/16 dropout, 8 bit": _at_the_cut("dropout(0.75)|uniform(8)", "uniform(8)"),
}
COLUMNS: dict[str, Column] = {
    "MB up at the cut": megabytes("smashed_up"),
    "MB down at the cut": megabytes("cut_gradient_down"),
    "MB sent": megabytes(*STREAMS),
}


def main(config: Config) -> None:
    """Trains all settings and prints the table."""
    conduct(config, SETTINGS, COLUMNS, seeds_of(_SEEDS.value))


if __name__ == "__main__":
    run(main, one_run=False)
