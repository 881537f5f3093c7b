"""Compares accuracy with simulated seconds and joules, over cuts, channel pruning and bits.

jfedsl study latency --preset=latency

Trains every combination of --cuts, --prune_rates and --bits on one simulated network. Writes a
table and a figure into --workdir. The same command resumes an interrupted study.
"""

from functools import reduce
from itertools import product
from operator import or_

from absl import flags

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.planner.settings import axes
from jfedsl.run.script import run
from jfedsl.studies.axes import JOULES, SECONDS
from jfedsl.studies.columns import Column, median_round_seconds, simulated, to_target
from jfedsl.studies.study import conduct, seeds_of

COLUMNS: dict[str, Column] = {
    "seconds": simulated("seconds"),
    "seconds to target": to_target("seconds"),
    "median s a round": median_round_seconds,
    "joules": simulated("energy_joules"),
    "joules to target": to_target("joules"),
    "a client computes, s": simulated("client_compute_seconds"),
    "sends, s": simulated("client_uplink_seconds"),
    "waits, s": simulated("client_waiting_seconds"),
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0"], "Seeds of every setting.", values)
    flags.DEFINE_list("cuts", ["pool1", "pool2", "pool3"], "Cuts to compare.", values)
    flags.DEFINE_list("prune_rates", ["0", "0.5"], "Pruning rates of channels to compare.", values)
    flags.DEFINE_list(
        "bits", ["8", "32"], "Bits at the cut, in both directions, to compare.", values
    )


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings and prints the table."""
    if config.network == "none":
        raise flag_error("network", "none", "a network", reason="without one nothing takes time")
    both_directions = [f"{bits}/{bits}" for bits in given.bits]
    values = {"cuts": given.cuts, "prune_rates": given.prune_rates, "bits": both_directions}
    lists = axes(config, values)
    names = product(given.cuts, given.prune_rates, given.bits)
    settings = {
        f"{cut}, rate {rate}, {bits} bits": reduce(or_, changes)
        for (cut, rate, bits), changes in zip(names, product(*lists), strict=True)
    }
    conduct(config, settings, COLUMNS, seeds_of(given.seeds), (SECONDS, JOULES))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
