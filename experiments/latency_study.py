"""Accuracy against simulated seconds and joules: cut, channels pruned and bits.

python experiments/latency_study.py --flagfile=experiments/studies/latency.flags

Every combination of --cuts, --prune_rates and --bits on one simulated network. Leaves a table and a
picture in --workdir; the same command goes on after an interruption.
"""

from itertools import product
from typing import Any

from absl import flags

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.runtime.script import run
from jfedsl.study import JOULES, SECONDS, Changes, Column, conduct

_SEEDS = flags.DEFINE_multi_integer("seeds", [0], "Seeds of the runs, one flag each.")
_CUTS = flags.DEFINE_list("cuts", ["pool1", "pool2", "pool3"], "Cuts to compare.")
_RATES = flags.DEFINE_list("prune_rates", ["0", "0.5"], "Rates of channels to compare.")
_BITS = flags.DEFINE_list("bits", ["8", "32"], "Bits at the cut, both ways, to compare.")


def _setting(cut: str, rate: str, bits: str) -> Changes:
    pruned: dict[str, Any] = {"prune_kind": "none"}
    if float(rate):
        pruned = {"prune_kind": "channel", "prune_rate": (float(rate),)}
    return {"cut": cut, "smashed_bits": bits, "cut_gradient_bits": bits, **pruned}


def _clock(name: str) -> Column:
    def column(summary: dict[str, Any]) -> float:
        value = summary["simulated"][name]
        return float("nan") if value is None else value

    return column


COLUMNS: dict[str, Column] = {
    "seconds": _clock("seconds"),
    "seconds to target": _clock("seconds_to_target"),
    "joules": _clock("energy_joules"),
    "joules to target": _clock("joules_to_target"),
    "a client computes, s": _clock("client_compute_seconds"),
    "sends, s": _clock("client_uplink_seconds"),
    "waits, s": _clock("client_waiting_seconds"),
}


def main(config: Config) -> None:
    """Trains all settings and prints the table."""
    if config.network == "none":
        raise flag_error("network", "none", "a network: without one nothing takes time")
    settings = {
        f"{cut}, rate {rate}, {bits} bits": _setting(cut, rate, bits)
        for cut, rate, bits in product(_CUTS.value, _RATES.value, _BITS.value)
    }
    conduct(config, settings, COLUMNS, _SEEDS.value, (SECONDS, JOULES))


if __name__ == "__main__":
    run(main)
