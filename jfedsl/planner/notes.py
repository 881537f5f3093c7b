"""Notes on a plan: settings that were left out, and where the theorem does not cover the choice."""

from pathlib import Path

import numpy as np

from jfedsl.compression.expression import Call
from jfedsl.config import Config, shown
from jfedsl.planner.estimates import Estimates
from jfedsl.planner.predictions import Predictions
from jfedsl.planner.quorums import waits_for_some
from jfedsl.planner.settings import describe
from jfedsl.planner.source import MeasuredRun
from jfedsl.run.convergence import scope

# Flags that the bound's constants depend on.
_CONSTANTS_DEPEND_ON = (
    "batch_size", "clients", "participants", "partition", "dirichlet_alpha", "quantity_alpha",
    "classes_per_client", "min_examples", "train_examples", "aggregation", "optimizer", "momentum",
    "sampling", "validation_fraction",
)  # fmt: skip


def notes_of(
    configs: list[Config], estimated: Estimates, predicted: Predictions, chosen: int,
    source: MeasuredRun | Path,
) -> list[str]:  # fmt: skip
    """Which settings were left out and why, and what of the choice the theorem does not cover.

    Args:
      configs: of all settings.
      estimated: of all settings.
      predicted: of all settings.
      chosen: index of the chosen setting.
      source: the run whose constants were measured, or the table that rounds come from.
    """
    errors = estimated.errors
    notes = [f"left out, {describe(configs[i])}: {error}" for i, error in errors.items()]
    if isinstance(source, Path):
        missing = [i for i, r in enumerate(predicted.rounds) if np.isinf(r) and i not in errors]
        return notes + [f"left out, {describe(configs[i])}: not in {source}" for i in missing]
    if any(map(waits_for_some, configs)):
        notes.append(
            "a heuristic with --quorums below all: the bound has as many participants as the "
            "quorum in each step, but neither staleness nor who arrives first"
        )
    config, run = configs[chosen], source.config
    beyond = scope(config)
    for name in ("outage_snr_db", "deadline_s"):
        if (value := getattr(config, name)) is not None:
            beyond.append(f"{name}={value} (the bound assumes that no participant fails)")
    if _rounding(config) != _rounding(run):
        smashed = config.expressions["smashed"]
        beyond.append(f"smashed={smashed} (its bias is that of the run, scaled by dropout)")
    smoothness = float(predicted.step_size[chosen]) * float(np.asarray(source.constants.beta))
    if smoothness > 1 + 1e-5:
        beyond.append(f"gamma * beta = {smoothness:.3g} (above 1)")
    for name in _CONSTANTS_DEPEND_ON:
        here, there = getattr(config, name), getattr(run, name)
        if here != there:
            beyond.append(f"{name}={shown(here)} ({shown(there)} where constants were measured)")
    if beyond:
        notes.append(f"a heuristic here, beyond the theorem: {', '.join(beyond)}")
    return notes


def _rounding(config: Config) -> list[Call]:
    """The compressors of the activation, but for dropout."""
    return [call for call in config.compressors["smashed"] if call.name != "dropout"]
