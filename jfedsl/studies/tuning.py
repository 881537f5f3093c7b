"""Learning rates chosen on validation data, with as many tries for every setting.

A setting is tried at its learning rates times powers of two, client and server alike. Three tries
come first, at 1/2, 1 and 2; while the best is the smallest or the greatest of them, the next
doubling or halving follows, and what is left of the tries halves the ratio beside the best.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jfedsl.config import Config
from jfedsl.config.canonical import canonical
from jfedsl.errors import UserError, flag_error
from jfedsl.run.plots.page import escaped
from jfedsl.run.storage.task_record import TaskRecord, read_record
from jfedsl.studies.configs import Changes, run_configs
from jfedsl.studies.records import Known, Record

LEARNING_RATES = ("client_learning_rate", "server_learning_rate")
MORE = 4  # tries beyond the budget that a setting gets while its best try is at an edge
_FIRST = (0.0, -1.0, 1.0)
FOLDER = "tuning"  # of the tries' runs, in that of the study


class Tuning(NamedTuple):
    """How learning rates are chosen.

    Attributes:
      tries: for each setting, at least 3.
      seeds: of each try; none of them is a seed of the study.
      follow: by the name of a setting that is not tuned, the one whose factor it takes.
    """

    tries: int
    seeds: Sequence[int]
    follow: Mapping[str, str]


class Tried(NamedTuple):
    """One try of a setting.

    Attributes:
      exponent: of the power of two that its learning rates are multiplied by.
      rates: the learning rates, by flag.
      score: metric on the validation set at the end, a mean over seeds, with its sign turned where
        less is better; -inf if a run diverged.
      records: of its runs.
    """

    exponent: float
    rates: Mapping[str, float]
    score: float
    records: Sequence[Record]


def check(base: Config, seeds: Sequence[int], tuning: Tuning) -> None:
    """Refuses a tuning that would see test data, or the study's seeds.

    Raises:
      UserError: no validation set, too few tries, or a seed of the study.
    """
    if not base.validation_fraction:
        raise flag_error(
            "validation_fraction", base.validation_fraction, "above 0",
            reason="--tries chooses learning rates on the validation set",
        )  # fmt: skip
    if tuning.tries < len(_FIRST):
        raise flag_error("tries", tuning.tries, f"0, or at least {len(_FIRST)}")
    shared = [seed for seed in tuning.seeds if seed in seeds]
    if shared:
        raise UserError(
            f"--tune_seeds={shared[0]} is one of --seeds; choose rates with other seeds"
        )


def tune(base: Config, name: str, changes: Changes, tuning: Tuning, known: Known) -> list[Tried]:
    """Trains the tries of a setting that are not finished.

    Args:
      base: of the study.
      name: of the setting.
      changes: what it changes in the base.
      tuning: how rates are chosen.
      known: where records come from.
    """
    folder = str(Path(base.workdir) / FOLDER) if base.workdir else ""
    tries: list[Tried] = []
    scores: dict[float, float] = {}
    while (exponent := next_exponent(scores, tuning.tries)) is not None:
        rates = _rates(dataclasses.replace(base, **changes), exponent)
        title = f"{name}, rates x {2**exponent:.3g}"
        within = dataclasses.replace(base, workdir=folder)
        (configs,) = run_configs(within, {title: {**changes, **rates}}, tuning.seeds).values()
        records = [known.record(title, config) for config in configs]
        scores[exponent] = _score(records)
        tries.append(Tried(exponent, rates, scores[exponent], records))
    return tries


def next_exponent(scores: Mapping[float, float], tries: int) -> float | None:
    """The exponent of the next try, None if none follows.

    >>> next_exponent({0.0: 0.8, -1.0: 0.7, 1.0: 0.9}, tries=5)  # the best is the greatest rate
    2.0
    >>> next_exponent({0.0: 0.9, -1.0: 0.7, 1.0: 0.8}, tries=5)
    0.5

    Args:
      scores: by the exponents that were tried, how good they were.
      tries: for each setting.
    """
    for exponent in _FIRST:
        if exponent not in scores:
            return exponent
    best = _best(scores)
    below = [exponent for exponent in scores if exponent < best]
    above = [exponent for exponent in scores if exponent > best]
    if not below or not above:
        outward = best + (1 if below else -1)
        return outward if len(scores) < tries + MORE else None
    if len(scores) >= tries:
        return None
    beside = max(max(below), min(above), key=lambda exponent: scores[exponent])
    return (best + beside) / 2


def _best(scores: Mapping[float, float]) -> float:
    """The exponent with the best score; of equally good ones the smallest."""
    return min(scores, key=lambda exponent: (-scores[exponent], exponent))


def chosen(tries: Sequence[Tried]) -> Tried:
    """The best try.

    Raises:
      UserError: all diverged.
    """
    scores = {one.exponent: one.score for one in tries}
    best = _best(scores)
    if not math.isfinite(scores[best]):
        name = tries[0].records[0].setting
        raise UserError(f"{name} and all other rates diverged; start from smaller learning rates")
    return next(one for one in tries if one.exponent == best)


def with_rates(base: Config, changes: Changes, exponent: float) -> Changes:
    """A setting with its learning rates multiplied by a power of two."""
    return {**changes, **_rates(dataclasses.replace(base, **changes), exponent)}


def _rates(config: Config, exponent: float) -> dict[str, float]:
    """The learning rates that a run has, multiplied, of three digits."""
    known = canonical(config)
    of_run = {flag: getattr(config, flag) for flag in LEARNING_RATES if flag in known}
    return {flag: float(f"{rate * 2**exponent:.3g}") for flag, rate in of_run.items()}


def _score(records: Sequence[Record]) -> float:
    scores = []
    for record in records:
        if record.summary is None:
            return -math.inf
        task = read_record(record.summary)
        value = record.summary[TaskRecord.final(task.tested)]
        scores.append(value if task.higher_is_better else -value)
    mean = sum(scores) / len(scores)
    return mean if math.isfinite(mean) else -math.inf


def table(tries: Mapping[str, Sequence[Tried]]) -> str:
    """A Markdown table of all tries: learning rates of clients, or of the server, and scores.

    Args:
      tries: by setting.
    """
    lines = ["| setting | tries: rate and validation metric | chosen |", "| --- | --- | --- |"]
    for name, of_setting in tries.items():
        best = chosen(of_setting)
        cells = [
            f"{next(iter(one.rates.values())):g}: {_shown(one.score)}"
            for one in sorted(of_setting, key=lambda one: one.exponent)
        ]
        rates = ", ".join(f"{flag} {rate:g}" for flag, rate in best.rates.items())
        edge = len({one.exponent for one in of_setting if one.exponent > best.exponent}) in (
            0, len(of_setting) - 1
        )  # fmt: skip
        note = ", at the edge of what was tried" if edge else ""
        lines.append(f"| {escaped(name)} | {'; '.join(cells)} | {rates}{note} |")
    return "\n".join(lines)


def _shown(score: float) -> str:
    return f"{abs(score):.4g}" if math.isfinite(score) else "diverged"
