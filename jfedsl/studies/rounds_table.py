"""Rounds to the target of a study's settings, as a table that the planner reads."""

import csv
import dataclasses
import io

from jfedsl.planner.settings import COLUMNS, column_values
from jfedsl.studies.columns import to_target
from jfedsl.studies.configs import Changes
from jfedsl.studies.outcome import Outcome, values_of
from jfedsl.studies.study import Study
from jfedsl.studies.tuning import LEARNING_RATES

ROUNDS = "rounds.csv"
# Fields that the planner's columns are made of.
_TOLD = {
    "cut", "aggregate_every", "prune_kind", "prune_rate", "cut_gradient_bits",
    "client_gradient_bits", "smashed_bits", "dropout_rate", *LEARNING_RATES,
}  # fmt: skip


def rounds_table(study: Study, outcomes: list[Outcome]) -> str:
    """A CSV table of the settings that the planner's columns tell apart, a row for each seed.

    Args:
      study: the study.
      outcomes: of its settings.

    Returns:
      Its text; empty if fewer than two settings are of this kind. Rounds are empty where a run
      missed the target.
    """
    planned = [o for o in outcomes if _is_told(study.settings[o.name])]
    if len(planned) < 2:
        return ""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, "rounds"])
    for outcome in planned:
        config = dataclasses.replace(study.base, **study.settings[outcome.name])
        values = list(column_values(config).values())
        for rounds in values_of(outcome, to_target("rounds")):
            writer.writerow([*values, "" if rounds is None else f"{rounds:.4g}"])
    return buffer.getvalue()


def _is_told(changes: Changes) -> bool:
    return set(changes) <= _TOLD
