"""The questions of arXiv 2412.06414 as settings: what each compares, and what its settings change.

Only the abstract of that paper is known here: pruning, quantized gradients, dropout at the cut and
averaging every I rounds, with VGG-19 on CIFAR-10. The questions follow it; the values are our own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.canonical import cut_name
from jfedsl.config.checks import MUST_APPLY
from jfedsl.config.compressors import SHORTHANDS
from jfedsl.data.validation import needed
from jfedsl.errors import UserError, as_text, close_to, conflict, flag_error
from jfedsl.models.registry import MODELS
from jfedsl.studies.study import Changes

RATES, BITS, DROPOUTS, PERIODS = (0.0, 0.25, 0.5, 0.75), (4, 8, 32), (0.0, 0.2, 0.5), (1, 2, 5)
ALPHAS = (0.5, 0.1)
# Algorithms that the light setting is compared with.
RIVALS = [name for name in ALGORITHMS if not Config(algorithm=name).compress_by_default]
_CUTS = 3  # number of cuts that are compared by default
LEARNING_RATES = ("client_learning_rate", "server_learning_rate")
_EXCHANGED = ("smashed", "cut_gradient", "client_gradient")  # compressed in every exchange

# Changes that switch pruning, quantization and dropout off.
_NOT_PRUNED: Changes = {"prune_kind": "none"}
_NOT_QUANTIZED: Changes = {
    "cut_gradient_bits": "32", "client_gradient_bits": "32", "smashed_bits": "32",
    "model_bits": "32",
}  # fmt: skip
_NOT_DROPPED: Changes = {"dropout_rate": "0"}
_PLAIN: Changes = {**_NOT_PRUNED, **_NOT_QUANTIZED, **_NOT_DROPPED}
# Flags of the light setting that rivals leave at their own defaults.
_RIVAL: Changes = {
    "prune_kind": None, "dropout_rate": None, "smashed_bits": None, "model_bits": None,
    "cut_gradient_bits": None, "client_gradient_bits": None,
}  # fmt: skip


class Question(NamedTuple):
    """One comparison.

    Attributes:
      title: of the figure and the table.
      settings: by their labels in the figure, the fields of the base that they change.
    """

    title: str
    settings: dict[str, Changes]


def questions(
    base: Config, cuts: Sequence[str], rates: Mapping[str, float] | None = None
) -> dict[str, Question]:
    """All questions, by the names of their files.

    Args:
      base: the light setting: it prunes, quantizes and drops, and says so by shorthands.
      cuts: cuts to compare.
      rates: learning rates of rivals, for both clients and server; a rival without one has the
        learning rates of the base.

    Raises:
      UserError: the base is not a light setting on a network, or a cut is unknown.
    """
    _check(base, cuts)
    kind = base.pruning
    pruning: dict[str, Changes] = {
        f"rate {rate:g}": {"prune_kind": kind, "prune_rate": (rate,)} if rate else _NOT_PRUNED
        for rate in RATES
    }
    bits: dict[str, Changes] = {
        f"{b} bits": {"cut_gradient_bits": str(b), "client_gradient_bits": str(b)} for b in BITS
    }
    dropout: dict[str, Changes] = {f"dropout {d:g}": {"dropout_rate": f"{d:g}"} for d in DROPOUTS}
    ablation: dict[str, Changes] = {
        "none": _PLAIN,
        "+ pruning": {**_NOT_QUANTIZED, **_NOT_DROPPED},
        "+ quantization": {**_NOT_PRUNED, **_NOT_DROPPED},
        "+ dropout": {**_NOT_PRUNED, **_NOT_QUANTIZED},
        "all": {},
    }
    rivals = {name: {**_RIVAL, **rival(name, (rates or {}).get(name))} for name in RIVALS}
    return {
        "prune_rate": Question("Pruning rate", pruning),
        "bits": Question("Bits of gradients", bits),
        "dropout": Question("Dropout at the cut", dropout),
        "cut": Question("Cut", {f"cut after {cut}": {"cut": cut} for cut in cuts}),
        "period": Question(
            "Rounds in a period", {f"I = {every}": {"aggregate_every": every} for every in PERIODS}
        ),
        "ablation": Question("What makes it light", ablation),
        "rivals": Question(
            "Light FedSL and its rivals", {"light fedsl": {}, "plain fedsl": _PLAIN, **rivals}
        ),
        "partition": Question("Unequal data", _partitions(base)),
    }


def _check(base: Config, cuts: Sequence[str]) -> None:
    """Refuses a base without one of the things that the questions vary, and wrong cuts."""
    for flag, value in (("prune_kind", base.pruning), ("network", base.network)):
        if value == "none":
            raise UserError(
                f"--{flag}=none leaves this study nothing to compare; set another value"
            )
    if not base.compress_by_default:
        light = ", ".join(name for name in ALGORITHMS if name not in RIVALS)
        raise flag_error("algorithm", base.algorithm, f"one of {light} in this study")
    only = {"client_backward": "float", "model_up": "", "model_down": ""}
    for flag, allowed in only.items():
        if getattr(base, flag) != allowed:
            raise flag_error(flag, getattr(base, flag), f"{allowed or 'left out'} in this study")
    if not cuts or len(set(cuts)) < len(cuts):
        raise flag_error("cuts", ",".join(cuts), "cuts separated by commas, each once")
    for cut in cuts:
        cut_name(dataclasses.replace(base, cut=cut))
    for name in _EXCHANGED:
        instead = " or ".join(f"--{shorthand}" for shorthand in SHORTHANDS[name])
        if getattr(base, name):
            raise conflict(name, getattr(base, name), "this study", f"it varies {instead}")
        if base.expressions[name] == "none":
            raise UserError(
                f"this study needs compression by {instead}, to compare with and without"
            )


def rival(name: str, rate: float | None = None) -> Changes:
    """What another algorithm changes in a base: it leaves out the settings that it would refuse.

    Args:
      name: of the algorithm.
      rate: its learning rate, for clients and server; None for those of the base.
    """
    uses = ALGORITHMS[name].uses
    changes = {flag: getattr(Config, flag) for flag in MUST_APPLY if flag not in uses}
    if rate is not None:
        changes |= {flag: rate for flag in LEARNING_RATES if flag in uses}
    return {"algorithm": name, **changes}


def _partitions(base: Config) -> dict[str, Changes]:
    """The light and the plain setting on each partition."""
    partitions: dict[str, Changes] = {"iid": {"partition": "iid"}}
    for alpha in ALPHAS:
        partitions[f"Dirichlet {alpha:g}"] = _dirichlet(base, alpha)
    variants: dict[str, Changes] = {"light": {}, "plain": _PLAIN}
    return {
        f"{variant}, {name}": {**compression, **partition}
        for name, partition in partitions.items()
        for variant, compression in variants.items()
    }


def _dirichlet(base: Config, alpha: float) -> Changes:
    changes = {"partition": "dirichlet", "dirichlet_alpha": alpha}
    as_base = all(getattr(base, name) == value for name, value in changes.items())
    if as_base or base.sampling != "epoch" or base.min_examples is not None:
        return changes
    least = needed(base.batch_size, base.validation_fraction)  # otherwise some seeds are refused
    return {**changes, "min_examples": least}


def default_cuts(base: Config) -> list[str]:
    """Cuts to compare for the model of the base: its first poolings, or its cut and later layers.

    >>> default_cuts(Config(model="mlp"))
    ['dense1', 'dense2']
    """
    if base.pretrained:
        return [f"block{n + 1}" for n in range(_CUTS)]
    names = [layer.name for layer in MODELS[base.model].build(2, base.norm)[:-1]]
    pools = [name for name in names if name.startswith("pool")]
    if len(pools) > 1:
        return pools[:_CUTS]
    first = names.index(cut_name(base)) if cut_name(base) in names else 0
    return names[first : first + _CUTS]


def rates_of(texts: Sequence[str]) -> dict[str, float]:
    """Learning rates of rivals from the entries of --rates, each `ALGORITHM=RATE`.

    >>> rates_of(["sl=0.01"])
    {'sl': 0.01}

    Raises:
      UserError: another form, or an algorithm that is no rival.
    """
    rates = {}
    for text in texts:
        name, _, rate = text.partition("=")
        allowed = f"entries ALGORITHM=RATE with an algorithm of {', '.join(RIVALS)}"
        if name not in RIVALS:
            close = close_to(name, RIVALS)
            raise UserError(f"--rates must be {allowed}, not {as_text(text)}{close}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise flag_error("rates", text, allowed) from None
    return rates
