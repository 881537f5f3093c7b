"""The convergence bound, term by term, beside the measured average squared gradient norm.

python experiments/bound_study.py --flagfile=experiments/studies/bound_digits.flags

Varies one setting at a time: steps between aggregations, cut, pruning, gradient bits, dropout.
Leaves a table and a picture in --workdir; the same command goes on after an interruption.
"""

from collections.abc import Mapping

from absl import flags

from jfedsl.bound_study import Sweeps, conduct
from jfedsl.config import Config
from jfedsl.runtime.script import run
from jfedsl.study import Changes

_SEEDS = flags.DEFINE_multi_integer("seeds", [0, 1, 2], "Seeds of the runs, one flag each.")
_CUTS = flags.DEFINE_list("cuts", [], "Cuts to compare; none leaves that out.")


def _sweeps() -> Sweeps:
    sweeps: dict[str, Mapping[str, Changes]] = {
        "steps between aggregations": {
            str(every): {"aggregate_every": every} for every in (1, 2, 4, 8, 16)
        },
        "prune rate": {
            f"{rate:g}": {"prune_kind": "mask", "prune_rate": (rate,)} if rate else {}
            for rate in (0, 0.1, 0.2, 0.4, 0.6, 0.8)
        },
        "gradient bits": {
            str(bits): {"cut_gradient_bits": bits, "client_gradient_bits": bits}
            for bits in (2, 3, 4, 8, 32)
        },
        "dropout rate": {f"{rate:g}": {"dropout_rate": rate} for rate in (0, 0.1, 0.2, 0.4, 0.6)},
        "together": {
            "none": {},
            "all": {
                "prune_kind": "mask",
                "prune_rate": (0.3,),
                "cut_gradient_bits": 8,
                "client_gradient_bits": 8,
                "dropout_rate": 0.2,
            },
        },
    }
    if _CUTS.value:
        sweeps["cut"] = {cut: {"cut": cut} for cut in _CUTS.value}
    return sweeps


def main(config: Config) -> None:
    """Trains all settings and prints the table."""
    conduct(config, _sweeps(), _SEEDS.value)


if __name__ == "__main__":
    run(main)
