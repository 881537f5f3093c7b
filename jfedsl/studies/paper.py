"""The questions of arXiv 2412.06414, asked of one light setting: their runs, figures and tables.

Of that paper only the abstract is known here: pruning, quantized gradients, dropout at the cut and
averaging every I rounds, with VGG-19 on CIFAR-10. The questions follow it; their values are ours.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.canonical import canonical, cut_name
from jfedsl.config.compressors import SHORTHANDS
from jfedsl.errors import UserError, as_text, close_to, conflict, flag_error
from jfedsl.models.registry import MODELS
from jfedsl.run.plots import figures
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.study import (
    JOULES,
    MEGABYTES,
    ROUND,
    SECONDS,
    Changes,
    Column,
    Outcome,
    megabytes,
    megabytes_to_target,
    outcome_of,
    runs,
    simulated,
    table,
)

AXES = (ROUND, MEGABYTES, SECONDS, JOULES)
COLUMNS: dict[str, Column] = {
    "MB sent": megabytes(*STREAMS),
    "seconds": simulated("seconds"),
    "device joules": simulated("energy_joules"),
    "rounds to target": lambda s: s["rounds_to_target"],
    "MB to target": megabytes_to_target,
    "seconds to target": simulated("seconds_to_target"),
    "device joules to target": simulated("joules_to_target"),
}
RATES, BITS, DROPOUTS, PERIODS = (0.0, 0.25, 0.5, 0.75), (4, 8, 32), (0.0, 0.2, 0.5), (1, 2, 5)
ALPHAS = (0.5, 0.1)
_CUTS = 3  # compared by default
_LEARNING_RATES = ("client_learning_rate", "server_learning_rate")
RIVALS = [name for name in ALGORITHMS if name != "fedsl"]
_DENSE: Changes = {"prune_kind": "none"}
_FLOAT: Changes = {
    "cut_gradient_bits": "32", "client_gradient_bits": "32", "smashed_bits": "32",
    "model_bits": "32",
}  # fmt: skip
_WHOLE: Changes = {"dropout_rate": "0"}
# Of a light setting, what means nothing to its rivals.
_PLAIN: Changes = {
    "prune_kind": None, "dropout_rate": None, "smashed_bits": None, "model_bits": None,
    "cut_gradient_bits": None, "client_gradient_bits": None,
}  # fmt: skip


class Question(NamedTuple):
    """What is compared: settings by what the figure calls them, and what they change."""

    title: str
    settings: dict[str, Changes]


def questions(
    base: Config, cuts: Sequence[str], rates: Mapping[str, float] | None = None
) -> dict[str, Question]:
    """The questions by name.

    Args:
      base: the light setting, which prunes, quantizes and drops by shorthands.
      cuts: to compare.
      rates: learning rates of rivals, on both sides; those of the base for others.

    Raises:
      UserError: a base that is not light FedSL on a network, or an unknown cut.
    """
    for flag, value in (("prune_kind", base.pruning), ("network", base.network)):
        if value == "none":
            raise UserError(
                f"--{flag}=none leaves this study nothing to compare; set another value"
            )
    only = {"algorithm": "fedsl", "client_backward": "float", "model_up": "", "model_down": ""}
    for flag, allowed in only.items():
        if getattr(base, flag) != allowed:
            raise flag_error(flag, getattr(base, flag), f"{allowed or 'left out'} in this study")
    if not cuts or len(set(cuts)) < len(cuts):
        raise flag_error("cuts", ",".join(cuts), "cuts separated by commas, each once")
    for cut in cuts:
        cut_name(dataclasses.replace(base, cut=cut))
    for place in ("smashed", "cut_gradient", "client_gradient"):
        instead = " or ".join(f"--{name}" for name in SHORTHANDS[place])
        if getattr(base, place):
            raise conflict(place, getattr(base, place), "this study", f"it varies {instead}")
        if base.expressions[place] == "none":
            raise UserError(
                f"this study needs compression by {instead}, to compare with and without"
            )
    kind = base.pruning

    def pruned(rate: float) -> Changes:
        return {"prune_kind": kind, "prune_rate": (rate,)} if rate else _DENSE

    def plain(name: str) -> Changes:
        cut = base.cut if ALGORITHMS[name].sides == "both" else None
        own: Changes = {**_PLAIN, "algorithm": name, "cut": cut}
        if rates is None or name not in rates:
            return own
        return {**own, **dict.fromkeys(_LEARNING_RATES, rates[name])}

    spread: dict[str, Changes] = {"iid": {"partition": "iid"}}
    for alpha in ALPHAS:
        spread[f"Dirichlet {alpha:g}"] = _dirichlet(base, alpha)
    off: Changes = {**_DENSE, **_FLOAT, **_WHOLE}
    both: tuple[tuple[str, Changes], ...] = (("light", {}), ("plain", off))
    return {
        "prune_rate": Question("Pruning rate", {f"rate {r:g}": pruned(r) for r in RATES}),
        "bits": Question(
            "Bits of gradients",
            {
                f"{b} bits": {"cut_gradient_bits": str(b), "client_gradient_bits": str(b)}
                for b in BITS
            },
        ),
        "dropout": Question(
            "Dropout at the cut", {f"dropout {d:g}": {"dropout_rate": f"{d:g}"} for d in DROPOUTS}
        ),
        "cut": Question("Cut", {f"cut after {cut}": {"cut": cut} for cut in cuts}),
        "period": Question(
            "Rounds in a period", {f"I = {every}": {"aggregate_every": every} for every in PERIODS}
        ),
        "ablation": Question(
            "What makes it light",
            {
                "none": off,
                "+ pruning": {**_FLOAT, **_WHOLE},
                "+ quantization": {**_DENSE, **_WHOLE},
                "+ dropout": {**_DENSE, **_FLOAT},
                "all": {},
            },
        ),
        "rivals": Question(
            "Light FedSL and its rivals",
            {"light fedsl": {}, "plain fedsl": off, **{name: plain(name) for name in RIVALS}},
        ),
        "partition": Question(
            "Unequal data",
            {
                f"{what}, {name}": {**own, **where}
                for name, where in spread.items()
                for what, own in both
            },
        ),
    }


def _dirichlet(base: Config, alpha: float) -> Changes:
    changes = {"partition": "dirichlet", "dirichlet_alpha": alpha}
    as_base = all(getattr(base, name) == value for name, value in changes.items())
    if as_base or base.sampling != "epoch" or base.min_examples is not None:
        return changes
    return {**changes, "min_examples": base.batch_size}  # else some seeds leave clients too few


def default_cuts(base: Config) -> list[str]:
    """Cuts to compare for the base's model: the first poolings, or its cut and those after it.

    >>> default_cuts(Config(model="mlp"))
    ['dense1', 'dense2']
    """
    names = [layer.name for layer in MODELS[base.model].build(2, base.norm)[:-1]]
    pools = [name for name in names if name.startswith("pool")]
    if len(pools) > 1:
        return pools[:_CUTS]
    first = names.index(cut_name(base)) if cut_name(base) in names else 0
    return names[first : first + _CUTS]


def rates_of(texts: Sequence[str]) -> dict[str, float]:
    """Learning rates of rivals from a flag's entries, each `ALGORITHM=RATE`.

    >>> rates_of(["sl=0.01"])
    {'sl': 0.01}

    Raises:
      UserError: something else.
    """
    found = {}
    for text in texts:
        name, _, rate = text.partition("=")
        allowed = f"entries ALGORITHM=RATE with an algorithm of {', '.join(RIVALS)}"
        if name not in RIVALS:
            raise UserError(
                f"--rates must be {allowed}, not {as_text(text)}{close_to(name, RIVALS)}"
            )
        try:
            found[name] = float(rate)
        except ValueError:
            raise flag_error("rates", text, allowed) from None
    return found


def conduct(
    base: Config,
    cuts: Sequence[str],
    seeds: Sequence[int],
    rates: Mapping[str, float] | None = None,
    only: Sequence[str] = (),
) -> str:
    """Trains every setting once a seed; a figure, CSV and table for each question.

    These are written as soon as the question's own runs are there.

    Args:
      base: the light setting; its `workdir` is the folder of the study.
      cuts: to compare.
      seeds: of the runs.
      rates: as in `questions`.
      only: names of the questions to ask; empty for all.

    Returns:
      The tables as Markdown.

    Raises:
      UserError: as `questions` and `runs`, or unknown questions.
    """
    every = questions(base, cuts, rates)
    asked = _only(every, only)
    names, settings = _distinct(base, every)
    planned = runs(base, settings, seeds)  # raises before anything is trained
    trained: dict[str, Outcome] = {}
    texts: list[str] = []
    for name, question in asked.items():
        first = {label: names[_key(base, own)] for label, own in question.settings.items()}
        missing = [own for own in first.values() if own not in trained]
        trained |= {own: outcome_of(own, planned[own], AXES) for own in missing}
        outcomes = [trained[first[label]]._replace(name=label) for label in question.settings]
        texts.append(_report(base, name, question.title, outcomes, seeds))
        write_atomically(Path(base.workdir, "tables.md"), "\n\n".join(texts) + "\n")
        if base.progress != "none":
            print(f"drawn: {Path(base.workdir, name)}.png", flush=True)
    return "\n\n".join(texts)


def _distinct(
    base: Config, questions: Mapping[str, Question]
) -> tuple[dict[tuple[Any, ...], str], dict[str, Changes]]:
    """Equal settings under their first label: that label by what they come to, and what it changes.

    Of all questions, whatever is asked, so that runs have the same folders.
    """
    names: dict[tuple[Any, ...], str] = {}
    settings: dict[str, Changes] = {}
    for question in questions.values():
        for label, changes in question.settings.items():
            known = _key(base, changes)
            if known not in names:
                names[known] = label
                settings[label] = changes
    return names, settings


def _only(questions: Mapping[str, Question], names: Sequence[str]) -> Mapping[str, Question]:
    """Those of these names, in their own order; all if there are none."""
    allowed = f"some of {', '.join(questions)}, each once"
    for name in names:
        if name not in questions:
            raise flag_error("only", name, allowed, questions)
    if len(set(names)) < len(names):
        raise flag_error("only", ",".join(names), allowed)
    return {name: own for name, own in questions.items() if not names or name in names}


def _key(base: Config, changes: Changes) -> tuple[Any, ...]:
    return tuple(canonical(dataclasses.replace(base, **changes)).items())


def _report(
    base: Config, name: str, title: str, outcomes: Sequence[Outcome], seeds: Sequence[int]
) -> str:
    curves: Mapping[str, list[figures.Curve]] = {o.name: o.curves for o in outcomes}
    labels = [axis.label for axis in AXES]
    about = f"{title}: {base.model} on {base.dataset}, {base.clients} clients"
    for suffix in ("png", "pdf"):
        figures.spread(curves, labels, about, Path(base.workdir, f"{name}.{suffix}"))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["setting", "seed", *labels, "test accuracy, deployed"])
    for outcome in outcomes:
        for seed, points in zip(seeds, outcome.curves, strict=True):
            writer.writerows([outcome.name, seed, *(f"{x:.6g}" for x in p)] for p in points)
    write_atomically(Path(base.workdir, f"{name}.csv"), buffer.getvalue())
    return f"### {title}\n\n{table(outcomes, COLUMNS)}"
