"""The convergence bound against measurement: sweeps of one setting each, a table and a picture."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from jfedsl.config import Config
from jfedsl.config.canonical import cut_name
from jfedsl.errors import TrainingError, UserError, flag_error
from jfedsl.run.convergence import over_measured, shown, with_ratio
from jfedsl.run.plots import figures
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.study import Changes, runs
from jfedsl.theory.bound import Terms, Verdict

Sweeps = Mapping[str, Mapping[str, Changes]]  # by what is varied, its values and what they change

_COLUMNS = (
    "measured", "bound", "with one beta", "gamma * beta", "verdict", "bound / measured",
)  # fmt: skip


class Outcome(NamedTuple):
    """What the runs of one setting came to, one entry a seed; `report` of `convergence`."""

    reports: list[dict[str, Any]]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Reports of the runs that did not diverge."""
        return [r for r in self.reports if r["verdict"] != Verdict.DIVERGED]

    def mean(self, name: str) -> float:
        """Mean over the finished runs; NaN if there are none, or it is not known of one."""
        values = np.array([r[name] for r in self.finished], np.float64)
        return float(np.mean(values)) if values.size else float("nan")


def measure(base: Config, sweeps: Sweeps, seeds: Sequence[int]) -> dict[str, dict[str, Outcome]]:
    """Trains every setting with every seed; the same call again goes on where it was.

    A setting that is the same in several sweeps is trained once.

    Args:
      base: of all runs; its `workdir` is the folder of the study.
      sweeps: what to vary.
      seeds: of the runs.

    Raises:
      UserError: no folder, constants that are not measured, or settings that cannot work.
    """
    if base.measure_constants_every is None:
        raise flag_error("measure_constants_every", None, "a number of rounds in this study")
    named: dict[Config, str] = {}
    settings: dict[str, Changes] = {}
    for what, values in sweeps.items():
        for value, changes in values.items():
            config = dataclasses.replace(base, **changes)
            settings.setdefault(named.setdefault(config, f"{what} {value}"), changes)
    for config in named:
        cut_name(config)  # a wrong one is found before anything is trained
    configs = runs(base, settings, seeds)
    outcomes = {name: Outcome([_report(c) for c in each]) for name, each in configs.items()}
    return {
        what: {
            value: outcomes[named[dataclasses.replace(base, **changes)]]
            for value, changes in values.items()
        }
        for what, values in sweeps.items()
    }


def _report(config: Config) -> dict[str, Any]:
    try:
        found: dict[str, Any] | None = train_setting(config)["convergence"]
    except TrainingError as error:
        if config.progress != "none":
            print(error, flush=True)
        return {"verdict": str(Verdict.DIVERGED)}
    if found is None:
        raise UserError(
            f"{config.workdir}: too little was measured there; delete it to train again"
        )
    if config.progress != "none":
        print(
            f"{config.workdir}: average {shown(found['average'])}, bound {shown(found['bound'])}, "
            f"{with_ratio(found)}",
            flush=True,
        )
    return found


def correlation(outcomes: Sequence[Outcome]) -> float:
    """Spearman's rank correlation of bound and measurement over settings.

    NaN below three of them, or if one of both is constant.
    """
    finished = [outcome for outcome in outcomes if outcome.finished]
    pairs = np.array([(o.mean("bound"), o.mean("average")) for o in finished])
    if len(pairs) < 3 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs).statistic)


def table(found: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Measurement, bound and verdict of every setting, its terms, and rank correlations."""
    names = [name.replace("_", " ") for name in Terms._fields]
    lines = [
        f"| setting | {' | '.join(_COLUMNS)} |",
        "| --- " * (1 + len(_COLUMNS)) + "|",
        *(_row(f"{w} {v}", o) for w, values in found.items() for v, o in values.items()),
        "",
        f"| setting | {' | '.join(names)} |",
        "| --- " * (1 + len(names)) + "|",
        *(_terms(f"{w} {v}", o) for w, values in found.items() for v, o in values.items()),
        "",
        "| varied | rank correlation of bound and measurement |",
        "| --- | --- |",
        *(_correlated(what, values.values()) for what, values in found.items()),
    ]
    distinct = {id(o): o for values in found.values() for o in values.values()}
    return "\n".join([*lines, _correlated("all", distinct.values())])


def _correlated(name: str, outcomes: Iterable[Outcome]) -> str:
    value = correlation(list(outcomes))
    return f"| {name} | {'-' if np.isnan(value) else f'{value:.2f}'} |"


def _row(name: str, outcome: Outcome) -> str:
    verdicts = [r["verdict"] for r in outcome.reports]
    counted = ", ".join(f"{v} ({verdicts.count(v)})" for v in dict.fromkeys(verdicts))
    if not outcome.finished:
        return f"| {name} | | | | | {counted} | |"
    values = [_spread(_known(outcome, key)) for key in ("average", "bound")]
    steepest = max(_known(outcome, "steepness"), default=float("nan"))
    ratios = [over_measured(r["bound"], r["average"]) for r in outcome.finished]
    values.append(_spread([ratio for ratio in ratios if ratio is not None]))
    one = outcome.mean("with_one_beta")
    return (
        f"| {name} | {values[0]} | {values[1]} | {one:.4g} | {steepest:.2f} | {counted} "
        f"| {values[2]} |"
    )


def _known(outcome: Outcome, name: str) -> list[float]:
    return [r[name] for r in outcome.finished if r[name] is not None]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not known"
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"


def _terms(name: str, outcome: Outcome) -> str:
    return f"| {name} | {' | '.join(f'{v:.3g}' for v in _mean_terms(outcome).values())} |"


def _mean_terms(outcome: Outcome) -> dict[str, float]:
    """Means over the finished runs; NaN if there are none, or one is not known."""
    rows = np.array([list(r["terms"].values()) for r in outcome.finished], np.float64)
    means = rows.mean(axis=0) if rows.size else np.full(len(Terms._fields), np.nan)
    return dict(zip((name.replace("_", " ") for name in Terms._fields), means, strict=True))


def conduct(base: Config, sweeps: Sweeps, seeds: Sequence[int]) -> None:
    """Measures all settings, then writes and prints the table and draws `bound.png`."""
    found = measure(base, sweeps, seeds)
    folder, text = Path(base.workdir), table(found)
    write_atomically(folder / "table.md", text + "\n")
    panels = {
        what: {value: _bar(outcome) for value, outcome in values.items()}
        for what, values in found.items()
    }
    title = f"{base.model} on {base.dataset}, {base.clients} clients, {base.rounds} rounds"
    figures.bounds(panels, title, folder / "bound.png")
    print(f"\n{text}")


def _bar(outcome: Outcome) -> figures.Bar | None:
    measured = _known(outcome, "average")
    return figures.Bar(_mean_terms(outcome), measured) if measured else None
