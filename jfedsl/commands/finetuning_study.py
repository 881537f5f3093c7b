"""Compares accuracy with bytes and simulated seconds of ways to fine-tune a pretrained transformer.

jfedsl study finetuning --preset=finetuning

All weights or adapters of several ranks, frozen clients, compressors at the cut, cuts, averages of
adapters, and rivals without a cut; some of them on other partitions. Writes a table and a figure
for each of these questions into --workdir. The same command resumes an interrupted study.
"""

from collections.abc import Sequence

from absl import flags

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.allowed import OneOf
from jfedsl.errors import flag_error
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.studies.axes import MEGABYTES, SECONDS
from jfedsl.studies.columns import Column, median_round_seconds, megabytes, simulated, to_target
from jfedsl.studies.questions import rates_of, rival
from jfedsl.studies.study import Changes, Figures, conduct, seeds_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)
    rivals = "fedavg,centralized"
    flags.DEFINE_list("rivals", rivals, "Algorithms without a cut to compare with.", values)
    flags.DEFINE_list("rates", [], "Learning rates of rivals, ALGORITHM=RATE.", values)


_RESET: Changes = {"client_optimizer_state": "reset"}
_LIGHT: Changes = {"smashed": "dropout(0.2)|uniform(4)", "cut_gradient": "uniform(4)"}
_METHODS: dict[str, Changes] = {
    "LoRA 8": {},
    "frozen clients": {"client_adapter": "none"},
    "LoRA 8, light": _LIGHT,
}
_PARTITIONS: dict[str, Changes] = {
    "IID": {"partition": "iid", "dirichlet_alpha": Config.dirichlet_alpha},
    # Enough for a batch of each client, beside what it holds out.
    "Dirichlet 0.1": {"partition": "dirichlet", "dirichlet_alpha": 0.1, "min_examples": 5},
}
SETTINGS: dict[str, Changes] = {
    "all weights": {
        "adapter": "full", "client_learning_rate": 3e-4, "server_learning_rate": 6e-4,
    },
    **{f"LoRA {rank}": {"adapter": f"lora(rank={rank})"} for rank in (1, 2, 4, 8, 16)},
    "LoRA 2 to 8, factors": {"client_adapter": "lora(rank=2-8)"},
    "LoRA 2 to 8, svd": {
        "client_adapter": "lora(rank=2-8)", "adapter_averaging": "svd", **_RESET,
    },
    "LoRA 2 to 8, stacked": {
        "client_adapter": "lora(rank=2-8)", "adapter_averaging": "stack", **_RESET,
    },
    "LoRA 8, fixed A": {"adapter_averaging": "freeze"},
    "frozen clients": _METHODS["frozen clients"],
    "8 bit": {"smashed": "uniform(8)", "cut_gradient": "uniform(8)"},
    "4 bit": {"smashed": "uniform(4)", "cut_gradient": "uniform(4)"},
    "dropout 0.5": {"smashed": "dropout(0.5)"},
    "LoRA 8, light": _LIGHT,
    "frozen clients, 4 bit": {"client_adapter": "none", "smashed": "uniform(4)"},
    **{f"cut after block {n}": {"cut": f"block{n}"} for n in (1, 3, 4, 5)},
    **{
        f"{name}, {partition}": {**changes, **of_partition}
        for partition, of_partition in _PARTITIONS.items()
        for name, changes in _METHODS.items()
    },
}  # fmt: skip

REFERENCE = "LoRA 8"  # most settings change one thing of it
COLUMNS: dict[str, Column] = {
    "MB sent": megabytes(*STREAMS),
    "MB at the cut": megabytes("smashed_up", "cut_gradient_down"),
    "seconds": simulated("seconds"),
    "seconds to target": to_target("seconds"),
    "median s a round": median_round_seconds,
    "joules": simulated("energy_joules"),
}


def _figures(rivals: Sequence[str]) -> Figures:
    """By file name, the settings that each figure compares."""
    ranks, cuts = (1, 2, 4, 8, 16), (3, 4, 5)
    on_clients = [name for name in rivals if _has_clients(name)]
    of_partitions = (*_METHODS, *on_clients)
    return {
        "trained": (
            "all weights", *(f"LoRA {rank}" for rank in ranks), "frozen clients", *rivals,
        ),
        "averaging": (
            "LoRA 8", "LoRA 8, fixed A", "LoRA 2 to 8, factors", "LoRA 2 to 8, svd",
            "LoRA 2 to 8, stacked",
        ),
        "compression": (
            "LoRA 8", "8 bit", "4 bit", "dropout 0.5", "LoRA 8, light", "frozen clients",
            "frozen clients, 4 bit",
        ),
        "cuts": ("cut after block 1", "LoRA 8", *(f"cut after block {n}" for n in cuts)),
        "partitions": tuple(f"{name}, {p}" for name in of_partitions for p in _PARTITIONS),
    }  # fmt: skip


def _has_clients(name: str) -> bool:
    return "client_learning_rate" in ALGORITHMS[name].uses


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings and prints the table."""
    if not config.pretrained:
        raise flag_error("pretrained", "", "a pretrained model")
    if config.network == "none":
        raise flag_error("network", "none", "a network", reason="without one nothing takes time")
    rates = rates_of(given.rates)
    for name in given.rivals:
        if name not in ALGORITHMS:
            raise flag_error("rivals", name, OneOf(ALGORITHMS).text, ALGORITHMS)
    rivals = {name: rival(name, rates.get(name)) for name in given.rivals}
    settings = SETTINGS | rivals
    for partition, of_partition in _PARTITIONS.items():
        settings |= {
            f"{name}, {partition}": {**changes, **of_partition}
            for name, changes in rivals.items()
            if _has_clients(name)
        }
    conduct(
        config,
        settings,
        COLUMNS,
        seeds_of(given.seeds),
        (MEGABYTES, SECONDS),
        _figures(given.rivals),
        REFERENCE,
    )


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
