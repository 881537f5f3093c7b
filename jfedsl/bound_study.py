"""The convergence bound against measurement: sweeps of one setting each, a table and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from jfedsl.config import Config
from jfedsl.errors import TrainingError, flag_error
from jfedsl.runtime import figures
from jfedsl.runtime.workdir import write_atomically
from jfedsl.study import Changes, runs
from jfedsl.theory.bound import Terms, Verdict
from jfedsl.training import train

Sweeps = Mapping[str, Mapping[str, Changes]]  # by what is varied, its values and what they change


class Outcome(NamedTuple):
    """What the runs of one setting came to, one entry a seed; `report` of `convergence`."""

    reports: list[dict[str, Any]]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Reports of the runs that did not diverge."""
        return [r for r in self.reports if r["verdict"] != Verdict.DIVERGED]

    def mean(self, name: str) -> float:
        """Mean over the finished runs; NaN if there are none."""
        values = [r[name] for r in self.finished]
        return float(np.mean(values)) if values else float("nan")


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
        raise flag_error("measure_constants_every", None, "a number of rounds for this study")
    named: dict[Config, str] = {}
    settings: dict[str, Changes] = {}
    for what, values in sweeps.items():
        for value, changes in values.items():
            config = dataclasses.replace(base, **changes)
            settings.setdefault(named.setdefault(config, f"{what} {value}"), changes)
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
        found: dict[str, Any] = train(config)["convergence"]
    except TrainingError as error:
        if config.progress != "none":
            print(error, flush=True)
        return {"verdict": str(Verdict.DIVERGED)}
    if config.progress != "none":
        print(
            f"{config.workdir}: average {found['average']:.4g}, bound {found['bound']:.4g}, "
            f"{found['verdict']}",
            flush=True,
        )
    return found


def correlation(outcomes: Sequence[Outcome]) -> float:
    """Spearman's rank correlation of bound and measurement over settings; NaN below three."""
    finished = [outcome for outcome in outcomes if outcome.finished]
    pairs = [(outcome.mean("bound"), outcome.mean("average")) for outcome in finished]
    return float(spearmanr(pairs).statistic) if len(pairs) > 2 else float("nan")


def table(found: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Measurement, bound and verdict of every setting, its terms, and rank correlations."""
    names = [name.replace("_", " ") for name in Terms._fields]
    lines = [
        "| setting | measured | bound | with one beta | gamma * beta | verdict |",
        "| --- " * 6 + "|",
        *(_row(f"{w} {v}", o) for w, values in found.items() for v, o in values.items()),
        "",
        f"| setting | {' | '.join(names)} |",
        "| --- " * (1 + len(names)) + "|",
        *(_terms(f"{w} {v}", o) for w, values in found.items() for v, o in values.items()),
        "",
        "| varied | rank correlation of bound and measurement |",
        "| --- | --- |",
        *(f"| {w} | {correlation(list(v.values())):.2f} |" for w, v in found.items()),
    ]
    distinct = {id(o): o for values in found.values() for o in values.values()}
    return "\n".join([*lines, f"| all | {correlation(list(distinct.values())):.2f} |"])


def _row(name: str, outcome: Outcome) -> str:
    verdicts = [r["verdict"] for r in outcome.reports]
    counted = ", ".join(f"{v} ({verdicts.count(v)})" for v in dict.fromkeys(verdicts))
    if not outcome.finished:
        return f"| {name} | | | | | {counted} |"
    values = [_spread([r[key] for r in outcome.finished]) for key in ("average", "bound")]
    steepest = max(r["steepness"] for r in outcome.finished)
    one = outcome.mean("with_one_beta")
    return f"| {name} | {values[0]} | {values[1]} | {one:.4g} | {steepest:.2f} | {counted} |"


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"


def _terms(name: str, outcome: Outcome) -> str:
    values = [
        np.mean([r["terms"][term] for r in outcome.finished]) if outcome.finished else np.nan
        for term in Terms._fields
    ]
    return f"| {name} | {' | '.join(f'{value:.3g}' for value in values)} |"


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
    if not outcome.finished:
        return None
    terms = {
        name.replace("_", " "): float(np.mean([r["terms"][name] for r in outcome.finished]))
        for name in Terms._fields
    }
    return figures.Bar(terms, [r["average"] for r in outcome.finished])
