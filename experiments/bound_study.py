"""Compares the convergence bound, term by term, with the measured mean squared gradient norm.

python experiments/bound_study.py --flagfile=experiments/studies/bound_digits.flags

Varies one setting at a time: steps between aggregations, cut, prune rate, gradient bits, dropout
rate. Writes a table and a figure into --workdir. The same command resumes an interrupted study.
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from absl import flags

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.studies.bound import Sweeps, conduct
from jfedsl.studies.study import Changes, seeds_of

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.")
_CUTS = flags.DEFINE_list("cuts", [], "Cuts to compare; default none.")


def _prune_rate(rate: float) -> Changes:
    return {"prune_kind": "mask", "prune_rate": (rate,)} if rate else {"prune_kind": "none"}


def _bits(bits: int) -> Changes:
    return {"cut_gradient_bits": bits, "client_gradient_bits": bits}


def _dropout_rate(rate: float) -> Changes:
    return {"dropout_rate": rate}


def _sweeps() -> Sweeps:
    periods, rates = (1, 2, 4, 8, 16), (0, 0.1, 0.2, 0.4, 0.6, 0.8)
    sweeps: dict[str, dict[str, Changes]] = {
        "steps between aggregations": {str(i): {"aggregate_every": i} for i in periods},
        "prune rate": {str(rate): _prune_rate(rate) for rate in rates},
        "gradient bits": {str(bits): _bits(bits) for bits in (2, 3, 4, 8, 32)},
        "dropout rate": {str(rate): _dropout_rate(rate) for rate in (0, 0.1, 0.2, 0.4, 0.6)},
        "together": {
            "none": {**_prune_rate(0), **_bits(32), **_dropout_rate(0)},
            "all": {**_prune_rate(0.3), **_bits(8), **_dropout_rate(0.2)},
        },
    }
    if _CUTS.value:
        sweeps["cut"] = {cut: {"cut": cut} for cut in _CUTS.value}
    return sweeps


def main(config: Config) -> None:
    """Trains all settings and prints the table."""
    conduct(config, _sweeps(), seeds_of(_SEEDS.value))


if __name__ == "__main__":
    run(main, one_run=False)
