"""Grids of settings: what is refused, budgets, tables of measured rounds and flag files."""

from pathlib import Path

import numpy as np
import pytest

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.planner.plan import Goal
from jfedsl.planner.settings import (
    axes,
    check_budgets,
    column_values,
    config_grid,
    flag_file,
    measured_rounds,
)
from planner.small_grid import SMALL, base


@pytest.fixture(scope="module")
def configs() -> list[Config]:
    return list(config_grid(base(), axes(base(), SMALL)).flat)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"cuts": []}, "--cuts is empty"),
        ({"periods": ["two"]}, "--periods must be numbers"),
        ({"bits": ["8", "8"]}, "--bits must be a list without repetitions, not 8,8"),
    ],
)
def test_bad_lists_are_refused(texts: dict[str, list[str]], message: str):
    with pytest.raises(UserError, match=message):
        axes(base(), texts)


def test_columns_have_the_defaults_of_the_algorithm():
    names = ("cut_gradient_bits", "smashed_bits", "dropout_rate")
    defaults = base(**dict.fromkeys((*names, "client_gradient_bits")))
    assert tuple(column_values(defaults).values())[-3:] == (8, 8, 0)
    other = base(algorithm="sfl_v2", **dict.fromkeys((*names, "client_gradient_bits")))
    assert tuple(column_values(other).values())[-3:] == (32, 32, 0)


def test_the_recorded_rounds_of_a_study_match_settings_with_the_flags_of_its_page():
    table = Path(__file__).parents[2] / "experiments/results/source_claims/rounds.csv"
    page = Path(__file__).parents[2] / "docs/guides/choosing.md"
    assert "--smashed_bits=32" in page.read_text().partition("python experiments/plan.py")[2]
    changes = {"model": "small", "aggregate_every": 2, "prune_kind": "channel", "smashed_bits": 32}
    grid = {"cuts": ["pool1", "pool3"], "prune_rates": ["0", "0.75"], "bits": ["32"]}
    settings = base(**changes, norm="group", local_steps=5)
    known = measured_rounds(table, list(config_grid(settings, axes(settings, grid)).flat))
    assert np.isfinite(known).all() and known[-1] < known[0], "a late cut, pruned, takes fewer"


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="--cut must be one of .*, not elsewhere"):
        config_grid(base(), axes(base(), {"cuts": ["dense1", "elsewhere"]}))
    with pytest.raises(UserError, match="--prune_rate must be a rate"):
        config_grid(base(), axes(base(), {"prune_rates": ["1.5"]}))
    with pytest.raises(UserError, match="--network must be a network, not none; "):
        config_grid(base(network="none"), axes(base(), {}))
    with pytest.raises(UserError, match="--algorithm must be .*, not sl"):
        config_grid(base(algorithm="sl"), axes(base(), {}))
    with pytest.raises(UserError, match="--prune_rates must be 0 with"):
        axes(base(prune_kind="none"), {"prune_rates": ["0.3"]})


def test_a_budget_that_excludes_all_settings_is_named(configs: list[Config]):
    needed = np.array([3.0, 2.0, np.inf, 4.0]), np.array([1.0, 5.0, np.inf, 2.0])
    allowed = check_budgets(configs, Goal(seconds=3.5).needs(*needed), "the goal")
    assert allowed.tolist() == [True, True, False, False]
    with pytest.raises(UserError, match=r"--budget_seconds must be at least 2, not 1; "):
        check_budgets(configs, Goal(seconds=1).needs(*needed), "the goal")
    with pytest.raises(UserError, match=r"--budget_joules must be at least 5, not 2; "):
        check_budgets(configs, Goal(seconds=2.5, joules=2).needs(*needed), "the goal")


def test_measured_rounds_are_matched_by_the_columns_of_the_table(
    tmp_path: Path, configs: list[Config]
):
    table = tmp_path / "rounds.csv"
    table.write_text("aggregate_every,prune_rate,rounds\n1,0,10\n1,0,14\n2,0.3,20\n2,0,\n")
    assert measured_rounds(table, configs).tolist() == [12, np.inf, np.inf, 20]
    table.write_text("aggregate_every,rounds\n9,10\n")
    with pytest.raises(UserError, match="none of the settings"):
        measured_rounds(table, configs)
    table.write_text("rate,rounds\n9,10\n")
    with pytest.raises(UserError, match="--rounds_table must be a CSV file with rounds"):
        measured_rounds(table, configs)


def test_a_flag_file_has_nothing_that_training_would_refuse() -> None:
    config = Config(prune_kind="none", prune_rate=(0.0,), partition="iid", dirichlet_alpha=0.1)
    lines = flag_file(config, ("prune_kind", "prune_rate"), ["a\nplan"]).splitlines()
    assert sorted(lines) == ["# a plan", "--partition=iid", "--prune_kind=none"]
