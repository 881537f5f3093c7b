"""Quorums in a plan: what is refused, and that a quorum of all changes nothing."""

from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_equal, parse

from jfedsl.errors import UserError
from jfedsl.planner.estimates import estimate
from jfedsl.planner.plan import Goal, Plan, make
from jfedsl.planner.settings import axes, config_grid, flag_file, table
from jfedsl.planner.source import constants_for
from jfedsl.run.assemble import build
from planner.small_grid import base, source
from planner.test_plan import check_by_brute_force

CHOICES = {"periods": ["1", "2"], "quorums": ["all", "2"]}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(base(), axes(base(), CHOICES), source(), Goal(target=1.0))


@pytest.mark.slow
def test_the_plan_with_quorums_is_that_of_brute_force(plan: Plan) -> None:
    check_by_brute_force(plan)


def test_a_quorum_of_all_is_a_plan_without_quorums(plan: Plan) -> None:
    without = make(base(), axes(base(), {"periods": ["1", "2"]}), source(), Goal(target=1.0))
    assert [plan.configs[i] for i in (0, 2)] == without.configs
    costs = jax.tree.map(lambda x: x[::2] if np.ndim(x) else x, plan.estimates.costs)
    assert_equal(costs, without.estimates.costs)
    assert_equal(jax.tree.map(lambda x: x[::2], plan.predictions), without.predictions)
    seconds = plan.estimates.costs.seconds
    assert (0 < seconds[1::2]).all() and (seconds[1::2] < seconds[::2]).all()
    assert not any("quorum" in note for note in without.notes)


def test_the_choice_is_a_run_and_its_table_has_quorums(plan: Plan) -> None:
    some = plan._replace(chosen=1)
    lines = flag_file(some.choice, ("rounds",), []).splitlines()
    assert {"--algorithm=semi_async", "--quorum=2"} <= set(lines)
    assert parse(lines) == some.choice
    build(some.choice)
    together = flag_file(plan._replace(chosen=0).choice, (), [])
    assert "quorum" not in together and "algorithm" not in together
    rows = table(plan.configs, {}, 0, True).splitlines()
    at = rows[0].split("|").index(" quorum ")
    assert [row.split("|")[at].strip() for row in rows[2:]] == ["all", "2", "all", "2"]
    heuristic = [note for note in plan.notes if note.startswith("a heuristic with --quorums")]
    assert len(heuristic) == 1


@pytest.mark.parametrize(
    ("entries", "changes", "words"),
    [
        (["4"], {}, "--quorums must be all or whole numbers from 1 to 3, the number of clients"),
        (["1.5"], {}, "--quorums must be all or whole numbers"),
        (["0"], {}, "--quorums must be all or whole numbers"),
        (["all", "3"], {}, "--quorums must be a list without repetitions, not all,3"),
        (["2"], {"participants": 2}, "--participants must be --clients=3 with --quorums, not 2"),
        (["2"], {"outage_snr_db": 3.0}, "--outage_snr_db must be left out with --quorums below"),
        (["all", "2"], {"deadline_s": 3.0}, "--deadline_s must be left out with --quorums below"),
        (["2"], {"model_down": "uniform(8)"}, "--model_down must be left out with --quorums below"),
        (["2"], {"algorithm": "sl"}, "--algorithm must be fedsl with --quorums, not sl"),
        (
            ["2"], {"prune_kind": "channel", "prune_rate": (0.5, 0.0, 0.5)},
            "--prune_rate must be rates that leave all clients one width",
        ),
    ],
)  # fmt: skip
def test_other_quorums_are_refused(entries: list[str], changes: dict[str, Any], words: str) -> None:
    config = base(**changes)
    with pytest.raises(UserError) as caught:
        config_grid(config, axes(config, {"quorums": entries}))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_quorum_that_a_run_refuses_is_left_out() -> None:
    config = base(max_staleness=1)
    grid = config_grid(config, axes(config, {"quorums": ["all", "1"]}))
    estimated = estimate(grid)
    assert list(estimated.errors) == [1]
    assert "--max_staleness must be 0 or at least 2" in str(estimated.errors[1])
    assert np.isfinite(estimated.costs.seconds).tolist() == [True, False]


def test_quorums_need_the_differences_of_clients() -> None:
    unseen = source()._replace(workdir="runs/measured")
    constants = unseen.constants._replace(dissimilarity=float("nan"))
    unseen = unseen._replace(constants=constants)
    assert constants_for(unseen, False).dissimilarity == 0
    with pytest.raises(UserError, match="--constants must be a run that .*it lacks dissimilarity"):
        constants_for(unseen, True)
