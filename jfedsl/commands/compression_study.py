"""Compares accuracy and bytes of compressors of the activation and the gradient at the cut.

jfedsl study compression --preset=compression

Settings are grouped by the bytes sent at the cut: 1/4, 1/8 and 1/16 of those of float32.
Writes a table and a figure into --workdir. The same command resumes an interrupted study.
"""

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.studies.columns import Column, megabytes
from jfedsl.studies.study import Changes, conduct, seeds_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)


def _compressors(smashed: str, cut_gradient: str) -> Changes:
    return {"smashed": smashed, "cut_gradient": cut_gradient}


SETTINGS: dict[str, Changes] = {
    "none": _compressors("none", "none"),
    "1/4 8 bit": _compressors("uniform(8)", "uniform(8)"),
    "1/4 dropout": _compressors("dropout(0.75)", "none"),
    "1/4 top-k": _compressors("topk(0.238,each=example)", "none"),
    "1/4 RandTopk": _compressors("randtopk(0.238,each=example)", "none"),
    "1/4 SplitFC dropout": _compressors("splitfc(0.75)", "none"),
    "1/8 4 bit": _compressors("uniform(4)", "uniform(4)"),
    "1/8 dropout, 8 bit": _compressors("dropout(0.5)|uniform(8)", "uniform(8)"),
    "1/8 top-k, 8 bit": _compressors("topk(0.44,each=example)|uniform(8)", "uniform(8)"),
    "1/8 RandTopk, 8 bit": _compressors("randtopk(0.44,each=example)|uniform(8)", "uniform(8)"),
    "1/8 SplitFC dropout, 8 bit": _compressors("splitfc(0.5)|uniform(8)", "uniform(8)"),
    "1/16 2 bit": _compressors("uniform(2)", "uniform(2)"),
    "1/16 dropout, 8 bit": _compressors("dropout(0.75)|uniform(8)", "uniform(8)"),
}
COLUMNS: dict[str, Column] = {
    "MB up at the cut": megabytes("smashed_up"),
    "MB down at the cut": megabytes("cut_gradient_down"),
    "MB sent": megabytes(*STREAMS),
}


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings and prints the table."""
    conduct(config, SETTINGS, COLUMNS, seeds_of(given.seeds))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
