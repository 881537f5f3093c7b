"""Rounds to the target of settings, as the planner reads them."""

import dataclasses
from pathlib import Path

import numpy as np
from helpers import plain

from jfedsl.planner.settings import measured_rounds
from jfedsl.studies.configs import Changes
from jfedsl.studies.costs import COSTS
from jfedsl.studies.outcome import Outcome
from jfedsl.studies.rounds_table import rounds_table
from jfedsl.studies.study import Study

SETTINGS: dict[str, Changes] = {
    "plain": {},
    "pruned": {"prune_kind": "channel", "prune_rate": (0.5,)},
    "never": {"cut": "dense2"},
    "scored": {"prune_kind": "channel", "prune_rate": (0.5,), "prune_score": "taylor"},
}


def outcome(name: str, *rounds: float | None) -> Outcome:
    """A setting, with the rounds of each seed to the target."""
    reached = [None if one is None else {"rounds": one} for one in rounds]
    return Outcome(name, [{COSTS: {"to_target": one}} for one in reached], [[]] * len(rounds))


def test_the_planner_reads_the_rounds_of_a_study(tmp_path: Path) -> None:
    one = Study(plain(), SETTINGS, (0, 1))
    outcomes = [
        outcome("plain", 3, 4.5), outcome("pruned", 7, None), outcome("never", None, None),
        outcome("scored", 1, 1),
    ]  # fmt: skip
    text = rounds_table(one, outcomes)
    assert len(text.splitlines()) == 1 + 2 * 3, "scores are nothing that the planner tells apart"
    (tmp_path / "rounds.csv").write_text(text)
    configs = [dataclasses.replace(one.base, **SETTINGS[o.name]) for o in outcomes[:3]]
    found = measured_rounds(tmp_path / "rounds.csv", configs)
    np.testing.assert_array_equal(found, [3.75, 7, np.inf])
    assert rounds_table(one, outcomes[::3]) == ""
