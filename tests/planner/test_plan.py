"""The planner against brute force, what it refuses, and what it writes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import parse

from jfedsl.errors import UserError
from jfedsl.planner import from_python
from jfedsl.planner.estimates import estimate
from jfedsl.planner.plan import Goal, Plan, conduct, make, predict, source_of
from jfedsl.planner.settings import axes
from jfedsl.planner.source import predicted_effects
from jfedsl.run.assemble import build
from jfedsl.run.convergence import setting_of
from jfedsl.theory.bound import Effects, steps_needed
from planner.small_grid import CONSTANTS, SMALL, base, source

FULL = {**SMALL, "cuts": ["dense1", "dense2"], "bits": ["2", "8"]}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(base(), axes(base(), SMALL), source(), Goal(target=1.0))


def check_by_brute_force(plan: Plan) -> None:
    """Builds and predicts every setting alone, and compares the best of them with the choice."""
    seconds = []
    for config in plan.configs:
        one_setting = np.empty((1,) * 7, object)
        one_setting[:] = config
        estimated = estimate(one_setting)
        effects = predicted_effects(source(), estimated, [config])
        scalars = Effects(*(np.asarray(x).item() for x in effects))
        setting = setting_of(config, build(config), 1)
        if config.quorum:
            setting = setting._replace(participants=config.quorum, largest_weight=1 / config.quorum)
        steps = float(steps_needed(CONSTANTS, scalars, setting, 1.0))
        rounds = np.ceil(steps / config.aggregate_every) * config.aggregate_every
        seconds.append(rounds * float(estimated.costs.seconds[0]))
    np.testing.assert_allclose(plan.predictions.seconds, seconds, rtol=1e-5)
    assert len(set(seconds)) == len(seconds), "settings differ"
    assert plan.chosen == min(range(len(seconds)), key=seconds.__getitem__)


def test_the_plan_is_that_of_brute_force(plan: Plan):
    check_by_brute_force(plan)


@pytest.mark.slow
def test_a_larger_plan_is_that_of_brute_force():
    check_by_brute_force(make(base(), axes(base(), FULL), source(), Goal(target=1.0)))


def test_pruning_and_longer_periods_make_rounds_cheaper(plan: Plan):
    seconds = plan.estimates.costs.seconds.reshape(2, 2)  # pruning rate, period
    assert (seconds[1] < seconds[0]).all() and (seconds[:, 1] < seconds[:, 0]).all()
    pruned_everywhere = plan.estimates.masks.pruned_everywhere
    pruned = 0.3 * 64 / 65  # biases are not pruned
    np.testing.assert_allclose(pruned_everywhere, [0, 0, pruned, pruned], rtol=1e-3)


def test_a_target_out_of_reach_is_refused_with_the_lowest_bound(plan: Plan):
    arguments = (base(), plan.estimates, plan.configs, source())
    with pytest.raises(UserError) as error:
        predict(*arguments, Goal(target=1e-4), False)
    text = str(error.value)
    assert text.startswith("--target must be at least 0.005334, not 0.0001; "), text
    assert "whose largest term, gradient noise, is 0.005333" in text  # beta gamma / 3 sum sigma^2
    lowest = float(text.split("at least ")[1].split(",")[0])
    reached = predict(*arguments, Goal(target=lowest * 1.01), False)
    assert np.isfinite(reached.seconds).any()
    with pytest.raises(UserError, match="--target must be at least"):
        predict(*arguments, Goal(target=lowest * 0.99), False)


def test_flags_are_checked_before_anything_is_written(tmp_path: Path):
    out, run = str(tmp_path / "out"), str(tmp_path)
    for arguments, message in [
        ((Goal(1.0), "", "", out), "set either --constants"),
        ((Goal(), run, "", out), "set --target, --budget_seconds or"),
        ((Goal(-1.0), run, "", out), "--target must be a number above 0"),
        ((Goal(1.0), "", "table.csv", out), "--target=1.0 has no effect with"),
        ((Goal(1.0), run, "", ""), "--output must be a folder to write the plan to; it is not set"),
        ((Goal(1.0), run, "", out), "the workdir of a run with --measure"),
    ]:
        with pytest.raises(UserError, match=message):
            source_of(base(), *arguments)
    assert not Path(out).exists()


def test_dropout_needs_constants_of_a_run_with_dropout(plan: Plan):
    dropped = [dataclasses.replace(c, dropout_rate="0.5") for c in plan.configs]
    message = "--dropout_rates must be 0, not 0.5; the run of --constants"
    with pytest.raises(UserError, match=message):
        predicted_effects(source(), plan.estimates, dropped)
    effects = predicted_effects(source(dropout_rate="0.2"), plan.estimates, dropped)
    np.testing.assert_allclose(effects.eps_d, 0.02 * 16, rtol=1e-6)  # (1 / 0.25)^2
    rounded = source()._replace(effects=Effects(eps_d=0.02))
    effects = predicted_effects(rounded, plan.estimates, plan.configs)
    np.testing.assert_array_equal(effects.eps_d, [0.02] * 4)  # of what else compresses
    chain = {"dropout_rate": None, "smashed_bits": None, "smashed": "dropout(0.5)|uniform(8)"}
    dropped = [dataclasses.replace(c, **chain) for c in plan.configs]  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--smashed must be without dropout, not dropout"):
        predicted_effects(source(), plan.estimates, dropped)


@pytest.mark.parametrize(
    ("bits", "note"), [(32, ""), (None, "smashed=uniform(8,bucket=512) (its bias is that of ")]
)
def test_a_note_says_that_the_run_rounded_its_activation_otherwise(bits: int | None, note: str):
    made = make(base(smashed_bits=bits), axes(base(), SMALL), source(), Goal(target=1.0))
    notes = " ".join(made.notes)
    assert note in notes and ("smashed=" in notes) == bool(note)


def test_the_flags_describe_the_choice(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture):
    conduct(plan, tmp_path / "new", "python experiments/plan.py --target=1")
    lines = (tmp_path / "new" / "plan.flags").read_text().splitlines()
    assert lines[0] == "# python experiments/plan.py --target=1"
    rounds = int(plan.predictions.rounds[plan.chosen])
    wanted = dataclasses.replace(plan.configs[plan.chosen], rounds=rounds)
    assert plan.choice == wanted
    assert parse([line for line in lines if line.startswith("--")]) == wanted
    assert (tmp_path / "new" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "new" / "plan.md").read_text()
    assert text.strip() in capsys.readouterr().out and text.count("| chosen |") == 1


def test_from_python_choices_are_values_of_the_flags(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(from_python, "make", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(from_python, "source_of", lambda *arguments: ("source", arguments))
    choices = {"prune_rates": [0, 0.3], "periods": [1, 2]}
    from_python.plan(base(), choices, Goal(target=1.0), "runs/measured")
    assert made == [(base(), axes(base(), SMALL), "source", Goal(target=1.0), False)]
    with pytest.raises(UserError, match="--choices must be by cuts, .* not period; did you mean p"):
        from_python.plan(base(), {"period": [1]}, Goal(target=1.0), "runs/measured")
