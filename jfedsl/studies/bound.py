"""The convergence bound against measurement: sweeps of one flag each, a table and a figure.

The bound is computed twice: predicted from a pilot before anything is trained, and from constants
measured in the runs themselves.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jfedsl.config import Config
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import DivergedError, UserError
from jfedsl.run.assemble.shares import counted
from jfedsl.run.convergence import shown, with_ratio
from jfedsl.run.pilot import Prediction
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.workdir import read_summary, write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.bound_outcome import Outcome
from jfedsl.studies.bound_prediction import PILOT, PilotPlan, predictions
from jfedsl.studies.bound_settings import Settings, Sweeps, settings_of
from jfedsl.studies.bound_tables import table
from jfedsl.studies.provenance import made_by
from jfedsl.theory.verdict import Verdict


def measure(
    settings: Settings, predicted: Mapping[str, Prediction]
) -> dict[str, dict[str, Outcome]]:
    """Trains every setting with every seed.

    Called again after an interruption it goes on where it stopped.

    Args:
      settings: of the study.
      predicted: by the name of a setting, its prediction.

    Returns:
      By the name of what is varied: by its values, the outcomes. Sweeps that share a setting share
      its outcome.

    Raises:
      UserError: an impossible setting.
    """
    outcomes = {
        name: Outcome([_report(config) for config in runs], predicted[name])
        for name, runs in settings.runs.items()
    }
    return {
        varied: {value: outcomes[name] for value, name in names.items()}
        for varied, names in settings.names.items()
    }


def _report(config: Config) -> dict[str, Any]:
    """The entry `convergence` of a run's summary, which is trained unless it is finished."""
    try:
        report: dict[str, Any] | None = train_setting(config)["convergence"]
    except DivergedError as error:
        if config.progress != "none":
            print(error, flush=True)
        return {"verdict": str(Verdict.DIVERGED)}
    finally:
        jax.clear_caches()  # programs that other runs share are in --compilation_cache
    if report is None:
        raise UserError(
            f"{config.workdir} has too few measurements; delete the folder to train again"
        )
    if config.progress != "none":
        average, bound = shown(report["average"]), shown(report["bound"])
        text = f"{config.workdir}: average {average}, bound {bound}, {with_ratio(report)}"
        print(text, flush=True)
    return report


def conduct(base: Config, sweeps: Sweeps, seeds: Sequence[int], plan: PilotPlan) -> None:
    """Predicts the bound of all settings, and only then trains them; writes tables and a figure.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the study.
      sweeps: what to vary.
      seeds: of every setting.
      plan: the pilot of the predictions.

    Raises:
      UserError: no folder, no measurement of constants, an impossible setting, or a folder in which
        a setting was trained before it was predicted.
    """
    settings = settings_of(base, sweeps, seeds)
    outcomes = measure(settings, predictions(base, settings, plan))
    folder = Path(base.workdir)
    runs = [Path(config.workdir) for configs in settings.runs.values() for config in configs]
    text = f"{table(outcomes, plan)}\n\n{made_by(map(read_summary, [folder / PILOT, *runs]))}"
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
    measured = outcome.known("average")
    return Bar(outcome.mean_terms(), measured, outcome.predicted) if measured else None
