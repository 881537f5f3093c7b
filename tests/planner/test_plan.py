"""The planner against brute force, what it refuses, and what it writes."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import parse, plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.planner import survey as planning
from jfedsl.planner.plan import Goal, Plan, conduct, make, predict, source_of
from jfedsl.planner.settings import axes, check_budgets, configs_of, flag_file, rounds_in
from jfedsl.planner.source import Measured, effects_of
from jfedsl.planner.survey import Grid, best, to_target, whole_periods, within
from jfedsl.run.assemble import build
from jfedsl.run.convergence import setting_of
from jfedsl.run.plots.pareto import pareto
from jfedsl.theory.bound import Constants, Effects, Setting, bound, steps_needed

SMALL = {"prune_rates": ["0", "0.3"], "periods": ["1", "2"]}
FULL = {**SMALL, "cuts": ["dense1", "dense2"], "bits": ["2", "8"]}
CONSTANTS = Constants(
    gap=2.0, beta=4.0, beta_drift=2.0, beta_pruning=1.0, beta_clients=4.0,
    variance=jnp.array([0.0, 0.2, 0.1, 0.1]), moment=jnp.array([0.0, 0.5, 0.3, 0.2]),
    expected=jnp.array([0.0, 0.3, 0.2, 0.1]), weight=jnp.array([0.0, 9.0, 5.0, 2.0]),
)  # fmt: skip


def base(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "clients": 3, "train_examples": 60, "test_examples": 20, "prune_kind": "mask",
        "sampling": "replacement", "compilation_cache": "", "client_learning_rate": 0.01,
        "server_learning_rate": 0.01, "network": "macro_cell",
    }  # fmt: skip
    return plain(**{**settings, **changes})


def source(**changes: Any) -> Measured:
    return Measured(base(**changes), CONSTANTS, Effects(phi=0.01, eps_d=0.02), 0.3)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(base(), axes(base(), SMALL), source(), Goal(target=1.0))


def compare(plan: Plan) -> None:
    """Every setting put together and predicted alone, and the least of them."""
    found = []
    for config in plan.configs:
        alone = np.empty((1,) * 6, object)
        alone[:] = config
        survey = planning.survey(alone)
        effects = effects_of(source(), survey, [config])
        single = Effects(*(np.asarray(x).item() for x in effects))
        own = setting_of(config, build(config), 1)
        steps = float(steps_needed(CONSTANTS, single, own, 1.0))
        rounds = np.ceil(steps / config.aggregate_every) * config.aggregate_every
        found.append(rounds * float(survey.grid.seconds[0]))
    np.testing.assert_allclose(plan.outlook.seconds, found, rtol=1e-5)
    assert len(set(found)) == len(found), "settings differ"
    assert plan.chosen == min(range(len(found)), key=found.__getitem__)


def test_the_plan_is_that_of_brute_force(plan: Plan):
    compare(plan)


@pytest.mark.slow
def test_a_larger_plan_is_that_of_brute_force():
    compare(make(base(), axes(base(), FULL), source(), Goal(target=1.0)))


def test_pruning_saves_and_longer_periods_take_less_a_round(plan: Plan):
    seconds = plan.survey.grid.seconds.reshape(2, 2)  # prune rate, period
    assert (seconds[1] < seconds[0]).all() and (seconds[:, 1] < seconds[:, 0]).all()
    np.testing.assert_allclose(
        plan.survey.masking.alone, [0, 0, 0.3 * 64 / 65, 0.3 * 64 / 65], rtol=1e-3
    )


def test_a_target_out_of_reach_says_how_low_the_bound_comes(plan: Plan):
    arguments = (base(), plan.survey, plan.configs, source())
    with pytest.raises(UserError) as error:
        predict(*arguments, Goal(target=1e-4), False)
    text = str(error.value)
    assert text.startswith("--target must be at least 0.005334, not 0.0001; "), text
    assert "whose largest term, gradient noise, is 0.005333" in text  # beta gamma / 3 sum sigma^2
    lowest = float(text.split("at least ")[1].split(",")[0])
    reached = predict(*arguments, Goal(target=lowest * 1.01), False)
    assert np.isfinite(reached.seconds).any()
    with pytest.raises(UserError, match="--target"):
        predict(*arguments, Goal(target=lowest * 0.99), False)


def test_budgets_say_which_of_them_binds(plan: Plan):
    take = np.array([3.0, 2.0, np.inf, 4.0]), np.array([1.0, 5.0, np.inf, 2.0])
    allowed = check_budgets(plan.configs, Goal(seconds=3.5).needs(*take), "the goal")
    assert allowed.tolist() == [True, True, False, False]
    with pytest.raises(UserError, match=r"--budget_seconds must be at least 2, not 1; "):
        check_budgets(plan.configs, Goal(seconds=1).needs(*take), "the goal")
    with pytest.raises(UserError, match=r"--budget_joules must be at least 5, not 2; "):
        check_budgets(plan.configs, Goal(seconds=2.5, joules=2).needs(*take), "the goal")


def few() -> tuple[Grid, Effects, Setting]:
    grid = Grid(np.array([1.0, 0.6, 0.5]), np.ones(3), np.array([1.0, 2.0, 4.0]), 3)
    setting = Setting(np.full(3, 2.0), np.full(3, 0.02), 1.0, grid.period * 3, 3, 3, 1 / 3)
    return grid, Effects(q=np.array([0.0, 0.1, 0.2])), setting


@pytest.mark.parametrize("tune", [False, True])
def test_rounds_to_a_target_are_whole_periods_that_reach_it_and_no_more(tune: bool):
    grid, effects, setting = few()
    found = to_target(grid, CONSTANTS, effects, setting, 0.9, tune)
    assert np.isfinite(found.rounds).all() and not (found.rounds % grid.period).any()
    assert (found.bound <= 0.9 * (1 + 1e-5)).all()
    before = setting._replace(
        steps=np.maximum(found.rounds - grid.period, 0.1) * 3, step_size=found.step_size
    )
    assert (np.asarray(bound(CONSTANTS, effects, before).total) > 0.9).all()
    plain_ = to_target(grid, CONSTANTS, effects, setting, 0.9, False)
    assert (found.rounds <= plain_.rounds).all()
    np.testing.assert_allclose(found.seconds, found.rounds * grid.seconds)


def test_within_a_budget_the_bound_is_of_whole_periods():
    grid, effects, setting = few()
    found = within(grid, CONSTANTS, effects, setting, 7 / grid.seconds, False)
    assert found.rounds.tolist() == [7, 10, 12]
    own = setting._replace(steps=found.rounds * 3)
    np.testing.assert_allclose(found.bound, bound(CONSTANTS, effects, own).total, rtol=1e-6)
    tuned = within(grid, CONSTANTS, effects, setting, 7 / grid.seconds, True)
    assert (tuned.bound <= found.bound).all() and (tuned.step_size <= 0.25).all()
    none = within(grid, CONSTANTS, effects, setting, np.array([1.0, 1.0, 3.0]), False)
    assert none.bound[1:].tolist() == [np.inf] * 2, "no whole period"


def test_best_and_pareto_are_those_of_loops():
    draws = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    draws[3] = np.inf

    def beaten(i: int) -> bool:
        return any(
            (a <= draws[i]).all() and (a < draws[i]).any() for j, a in enumerate(draws) if j != i
        )

    finite = np.isfinite(draws).all(axis=1)
    wanted = [bool(finite[i]) and not beaten(i) for i in range(40)]
    assert pareto(draws).tolist() == wanted
    allowed = draws[:, 1] > 2
    wanted_best = min((x, i) for i, x in enumerate(draws[:, 0]) if allowed[i])[1]
    assert best(draws[:, 0], allowed) == wanted_best
    assert best(draws[:, 0], np.zeros(40, bool)) is None
    assert whole_periods(np.array([4.1, np.inf]), np.array([4, 4])).tolist() == [8, np.inf]


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


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="--cut must be one of .*, not elsewhere"):
        configs_of(base(), axes(base(), {"cuts": ["dense1", "elsewhere"]}))
    with pytest.raises(UserError, match="--prune_rate must be a rate"):
        configs_of(base(), axes(base(), {"prune_rates": ["1.5"]}))
    with pytest.raises(UserError, match="--network must be a network, not none; "):
        configs_of(base(network="none"), axes(base(), {}))
    with pytest.raises(UserError, match="--algorithm must be fedsl"):
        configs_of(base(algorithm="sl"), axes(base(), {}))
    with pytest.raises(UserError, match="--prune_rates must be 0 with"):
        axes(base(prune_kind="none"), {"prune_rates": ["0.3"]})


def test_sources_are_checked_before_anything_is_written(tmp_path: Path):
    out = tmp_path / "out"
    for arguments, message in [
        ((Goal(1.0), "", "", str(out)), "set either --constants"),
        ((Goal(), str(tmp_path), "", str(out)), "set --target, --budget_seconds or"),
        ((Goal(-1.0), str(tmp_path), "", str(out)), "--target must be a number above 0"),
        ((Goal(1.0), "", "table.csv", str(out)), "--target=1.0 has no effect with"),
        (
            (Goal(1.0), str(tmp_path), "", ""),
            "--output must be a folder to write the plan to; it is not set",
        ),
        ((Goal(1.0), str(tmp_path), "", str(out)), "the workdir of a run with --measure"),
    ]:
        with pytest.raises(UserError, match=message):
            source_of(base(), *arguments)
    assert not out.exists()


def test_dropout_needs_constants_of_a_run_with_dropout(plan: Plan):
    dropped = [dataclasses.replace(c, dropout_rate="0.5") for c in plan.configs]
    with pytest.raises(
        UserError, match="--dropout_rates must be 0, not 0.5; the run of --constants"
    ):
        effects_of(source(), plan.survey, dropped)
    found = effects_of(source(dropout_rate="0.2"), plan.survey, dropped)
    np.testing.assert_allclose(found.eps_d, 0.02 * 16, rtol=1e-6)  # (1 / 0.25)^2


def test_a_table_of_rounds_counts_settings_by_its_columns(tmp_path: Path, plan: Plan):
    table = tmp_path / "rounds.csv"
    table.write_text("aggregate_every,prune_rate,rounds\n1,0,10\n1,0,14\n2,0.3,20\n2,0,\n")
    found = rounds_in(table, plan.configs)
    assert found.tolist() == [12, np.inf, np.inf, 20]
    table.write_text("aggregate_every,rounds\n9,10\n")
    with pytest.raises(UserError, match="none of the settings"):
        rounds_in(table, plan.configs)
    table.write_text("rate,rounds\n9,10\n")
    with pytest.raises(UserError, match="--rounds_table must be a CSV file with rounds"):
        rounds_in(table, plan.configs)


def test_the_flags_describe_the_choice(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture):
    conduct(plan, tmp_path / "new", "python experiments/plan.py --target=1")
    lines = (tmp_path / "new" / "plan.flags").read_text().splitlines()
    assert lines[0] == "# python experiments/plan.py --target=1"
    rounds = int(plan.outlook.rounds[plan.chosen])
    wanted = dataclasses.replace(plan.configs[plan.chosen], rounds=rounds)
    assert parse([line for line in lines if line.startswith("--")]) == wanted
    assert (tmp_path / "new" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "new" / "plan.md").read_text()
    assert text.strip() in capsys.readouterr().out and text.count("| chosen |") == 1


def test_a_flag_file_has_nothing_that_training_would_refuse() -> None:
    config = Config(prune_kind="none", prune_rate=(0.0,), partition="iid", dirichlet_alpha=0.1)
    lines = flag_file(config, ("prune_kind", "prune_rate"), ["a\nplan"]).splitlines()
    assert sorted(lines) == ["# a plan", "--partition=iid", "--prune_kind=none"]
