"""Compares accuracy, bytes and FLOPs of clients over prune rates, for weights and for channels.

jfedsl study pruning --preset=pruning

Writes a table and a figure into --workdir. The same command resumes an interrupted study.
"""

from typing import Any

from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.studies.columns import Column, megabytes
from jfedsl.studies.study import conduct, seeds_of

SETTINGS: dict[str, dict[str, Any]] = {
    "dense": {"prune_kind": "none"},
    **{
        f"{kind} {rate:g}": {"prune_kind": kind, "prune_rate": (rate,)}
        for kind, rates in (("channel", (0.25, 0.5)), ("mask", (0.3, 0.5, 0.7)))
        for rate in rates
    },
}
COLUMNS: dict[str, Column] = {
    "MB sent": megabytes(*STREAMS),
    "of which model": megabytes("model_up", "model_down"),
    "MFLOPs of a client, an example": lambda summary: summary["client_flops"]["pruned"] / 1e6,
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings and prints the table."""
    conduct(config, SETTINGS, COLUMNS, seeds_of(given.seeds))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
