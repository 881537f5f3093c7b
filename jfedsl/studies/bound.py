"""The convergence bound against measurement: sweeps of one flag each, a table and a figure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from jfedsl.config import Config
from jfedsl.config.canonical import cut_name
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import TrainingError, UserError, flag_error
from jfedsl.run.assemble.shares import counted
from jfedsl.run.convergence import over_measured, shown, with_ratio
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.configs import Changes, run_configs
from jfedsl.studies.provenance import made_by
from jfedsl.theory.bound import Terms
from jfedsl.theory.verdict import Verdict

# By the name of what is varied: by its values, the fields of the base that they change.
Sweeps = Mapping[str, Mapping[str, Changes]]

_COLUMNS = (
    "measured", "bound", "with one beta", "gamma * beta", "verdict", "bound / measured",
)  # fmt: skip


class Outcome(NamedTuple):
    """The outcome of one setting.

    Attributes:
      reports: for each seed, the entry `convergence` of summary.json.
    """

    reports: list[dict[str, Any]]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The reports of the runs that did not diverge."""
        return [r for r in self.reports if r["verdict"] != Verdict.DIVERGED]

    def mean(self, name: str) -> float:
        """Mean of an entry over the finished runs; NaN if there are none or one lacks it."""
        values = np.array([r[name] for r in self.finished], np.float64)
        return float(np.mean(values)) if values.size else float("nan")


def measure(base: Config, sweeps: Sweeps, seeds: Sequence[int]) -> dict[str, dict[str, Outcome]]:
    """Trains every setting of every sweep with every seed.

    A setting that several sweeps share is trained once. Called again after an interruption it goes
    on where it stopped.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the study.
      sweeps: what to vary.
      seeds: of every setting.

    Returns:
      By the name of what is varied: by its values, the outcomes.

    Raises:
      UserError: no folder, no measurement of constants, or an impossible setting.
    """
    if base.measure_constants_every is None:
        raise flag_error("measure_constants_every", None, "a number of rounds in this study")
    names: dict[Config, str] = {}
    settings: dict[str, Changes] = {}
    for varied, values in sweeps.items():
        for value, changes in values.items():
            config = dataclasses.replace(base, **changes)
            settings.setdefault(names.setdefault(config, f"{varied} {value}"), changes)
    for config in names:
        cut_name(config)  # refuses a wrong cut before anything is trained
    configs = run_configs(base, settings, seeds)
    outcomes = {name: Outcome([_report(c) for c in runs]) for name, runs in configs.items()}
    return {
        varied: {
            value: outcomes[names[dataclasses.replace(base, **changes)]]
            for value, changes in values.items()
        }
        for varied, values in sweeps.items()
    }


def _report(config: Config) -> dict[str, Any]:
    """The entry `convergence` of a run's summary, which is trained unless it is finished."""
    try:
        report: dict[str, Any] | None = train_setting(config)["convergence"]
    except TrainingError as error:
        if config.progress != "none":
            print(error, flush=True)
        return {"verdict": str(Verdict.DIVERGED)}
    if report is None:
        raise UserError(
            f"{config.workdir} has too few measurements; delete the folder to train again"
        )
    if config.progress != "none":
        average, bound = shown(report["average"]), shown(report["bound"])
        text = f"{config.workdir}: average {average}, bound {bound}, {with_ratio(report)}"
        print(text, flush=True)
    return report


def correlation(outcomes: Sequence[Outcome]) -> float:
    """Spearman's rank correlation of bound and measurement over settings.

    NaN for fewer than three settings, or if bound or measurement is constant.
    """
    finished = [outcome for outcome in outcomes if outcome.finished]
    pairs = np.array([(o.mean("bound"), o.mean("average")) for o in finished])
    if len(pairs) < 3 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs).statistic)


def table(outcomes: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Markdown tables: bound and verdict of every setting, its terms, and rank correlations.

    Args:
      outcomes: from `measure`.
    """
    names = [name.replace("_", " ") for name in Terms._fields]
    named = [(f"{v} {value}", o) for v, values in outcomes.items() for value, o in values.items()]
    lines = [
        f"| setting | {' | '.join(_COLUMNS)} |",
        "| --- " * (1 + len(_COLUMNS)) + "|",
        *(_row(name, outcome) for name, outcome in named),
        "",
        f"| setting | {' | '.join(names)} |",
        "| --- " * (1 + len(names)) + "|",
        *(_terms(name, outcome) for name, outcome in named),
        "",
        "| varied | rank correlation of bound and measurement |",
        "| --- | --- |",
        *(_correlation_row(varied, values.values()) for varied, values in outcomes.items()),
    ]
    distinct = {id(outcome): outcome for _, outcome in named}
    return "\n".join([*lines, _correlation_row("all", distinct.values())])


def _correlation_row(name: str, outcomes: Iterable[Outcome]) -> str:
    value = correlation(list(outcomes))
    return f"| {name} | {'-' if np.isnan(value) else f'{value:.2f}'} |"


def _row(name: str, outcome: Outcome) -> str:
    """The row of a setting in the table with `_COLUMNS`."""
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
    """An entry of all finished runs that have it."""
    return [r[name] for r in outcome.finished if r[name] is not None]


def _spread(values: Sequence[float]) -> str:
    """Mean of values, and their least and greatest if there are several."""
    if not values:
        return "not known"
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"


def _terms(name: str, outcome: Outcome) -> str:
    return f"| {name} | {' | '.join(f'{v:.3g}' for v in _mean_terms(outcome).values())} |"


def _mean_terms(outcome: Outcome) -> dict[str, float]:
    """Means of the bound's terms over the finished runs; NaN where one run lacks a term."""
    rows = np.array([list(r["terms"].values()) for r in outcome.finished], np.float64)
    means = rows.mean(axis=0) if rows.size else np.full(len(Terms._fields), np.nan)
    return dict(zip((name.replace("_", " ") for name in Terms._fields), means, strict=True))


def conduct(base: Config, sweeps: Sweeps, seeds: Sequence[int]) -> None:
    """Measures all settings, then writes and prints the tables and draws the figure `bound`."""
    outcomes = measure(base, sweeps, seeds)
    folder, text = Path(base.workdir), f"{table(outcomes)}\n\n{made_by([])}"
    write_atomically(folder / "table.md", text + "\n")
    panels = {
        varied: {value: _bar(outcome) for value, outcome in values.items()}
        for varied, values in outcomes.items()
    }
    clients = counted(base).clients
    title = (
        f"{model_title(base)} on {title_of(base.dataset)}, {clients} clients, {base.rounds} rounds"
    )
    save_each(bounds(panels, title), folder / "bound", base.figure_format)
    print(f"\n{text}")


def _bar(outcome: Outcome) -> Bar | None:
    """The bar of a setting in the figure; None if all its runs diverged."""
    measured = _known(outcome, "average")
    return Bar(_mean_terms(outcome), measured) if measured else None
