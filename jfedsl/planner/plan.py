"""The planner: predicts every setting of a grid and writes the best one as flags."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.config.canonical import effective
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import UserError, flag_error, no_effect
from jfedsl.files.paths import Name, local
from jfedsl.files.program import other_program
from jfedsl.planner import predictions, quorums, settings
from jfedsl.planner.estimates import Estimates, RoundCosts, estimate
from jfedsl.planner.notes import notes_of
from jfedsl.planner.predictions import MAX_STEPS, Predictions
from jfedsl.planner.settings import Changes, config_grid, describe
from jfedsl.planner.source import MeasuredRun, constants_for, measured_run, predicted_effects
from jfedsl.run.convergence import setting_of, step_size
from jfedsl.run.plots import pareto
from jfedsl.run.plots.pareto import Panel
from jfedsl.run.plots.style import save_each
from jfedsl.run.processes.compilation import keep_programs
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.theory.bound import Constants, Effects, Setting, best_step_size, bound

# Flags that plan.flags has even at their defaults.
_CHOSEN = (
    "cut", "aggregate_every", "prune_kind", "prune_rate", "cut_gradient_bits",
    "client_gradient_bits", "dropout_rate", "allocation", "rounds",
)  # fmt: skip


class Goal(NamedTuple):
    """The goal: reach a squared gradient norm, or the least possible within the budgets.

    Attributes:
      target: squared gradient norm to bring the bound to.
      seconds: budget of simulated seconds.
      joules: budget of joules, of all devices together.
    """

    target: float | None = None
    seconds: float | None = None
    joules: float | None = None

    def needs(self, seconds: np.ndarray, joules: np.ndarray) -> dict[str, Any]:
        """Each budget by its flag, with the seconds or joules `[n]` that settings need."""
        return {"budget_seconds": (self.seconds, seconds), "budget_joules": (self.joules, joules)}


class Plan(NamedTuple):
    """All settings with their predictions, and the choice.

    Attributes:
      configs: of all settings.
      estimates: of all settings.
      predictions: of all settings.
      chosen: index of the chosen setting.
      notes: lines for the user: settings left out, and limits of the theorem.
      panels: of the figure `pareto`.
    """

    configs: list[Config]
    estimates: Estimates
    predictions: Predictions
    chosen: int
    notes: list[str]
    panels: list[Panel]

    @property
    def choice(self) -> Config:
        """The chosen setting as the config of a run, with its number of rounds."""
        rounds = int(self.predictions.rounds[self.chosen])
        config = dataclasses.replace(effective(self.configs[self.chosen]), rounds=rounds)
        if self.predictions.step_size[self.chosen] == step_size(config):
            return config
        rate = float(f"{self.predictions.step_size[self.chosen]:.6g}")
        return dataclasses.replace(config, client_learning_rate=rate, server_learning_rate=rate)


def source_of(
    base: Config, goal: Goal, constants: str, table: str, output: str
) -> tuple[MeasuredRun | Path, Path]:
    """Checks the flags of the planner together.

    Args:
      base: the config that all settings change.
      goal: of the plan.
      constants: workdir of a run that measured the bound's constants, or "".
      table: CSV file of measured rounds, or "".
      output: folder for the plan.

    Returns:
      The measured run or the table that rounds come from, and the folder for the plan.

    Raises:
      UserError: names the flag that is missing, wrong or without effect.
    """
    for name, value in zip(("target", "budget_seconds", "budget_joules"), goal, strict=True):
        if value is not None and not 0 < value < float("inf"):
            raise flag_error(name, value, "a number above 0")
    if bool(constants) == bool(table):
        raise UserError(
            "set either --constants, the workdir of a run with --measure_constants_every, or "
            "--rounds_table"
        )
    if table and goal.target is not None:
        because = "with --rounds_table, whose rounds are to one target already"
        raise no_effect("target", goal.target, because)
    if constants and goal == Goal():
        raise UserError("set --target, --budget_seconds or --budget_joules with --constants")
    folder = local("output", output)
    if not output or (folder.exists() and not folder.is_dir()):
        raise flag_error("output", output, "a folder to write the plan to")
    return local("rounds_table", table) if table else measured_run(base, constants), folder


def predict(
    base: Config, estimated: Estimates, configs: list[Config], source: MeasuredRun, goal: Goal,
    tune: bool,
) -> Predictions:  # fmt: skip
    """Predicts every setting by the bound.

    Args:
      base: the config that all settings change.
      estimated: of all settings.
      configs: of all settings.
      source: run in which the constants were measured.
      goal: of the plan.
      tune: whether to choose the bound's best step size for each setting.

    Raises:
      UserError: the target is below the bound of every setting; names the lowest bound.
    """
    gamma = step_size(base)
    if not tune and not gamma:
        raise flag_error("client_learning_rate", gamma, "above 0 without --tune_step_size")
    effects, costs = predicted_effects(source, estimated, configs), estimated.costs
    setting = setting_of(base, estimated.experiment, 1)
    answered = np.array([quorums.answered(config) for config in configs], np.float64)
    setting = setting._replace(
        participants=answered,
        largest_weight=setting.largest_weight * (setting.participants / answered),
        cut=estimated.cut,
        step_size=np.full(len(configs), gamma),
        period=costs.period * costs.local_steps,
    )
    constants = constants_for(source, bool((answered < setting.clients).any()))
    problem = costs, constants, effects, setting
    if goal.target is None:
        affordable = np.minimum(
            (goal.seconds or np.inf) / costs.seconds, (goal.joules or np.inf) / costs.joules
        )
        return predictions.within(*problem, affordable, tune)
    predicted = predictions.to_target(*problem, goal.target, tune)
    if np.isfinite(predicted.seconds).any():
        return predicted
    raise _out_of_reach(configs, estimated, constants, effects, setting, goal.target, tune)


def _out_of_reach(
    configs: list[Config], estimated: Estimates, constants: Constants, effects: Effects,
    setting: Setting, target: float, tune: bool,
) -> UserError:  # fmt: skip
    """An error for a target that no setting reaches: the lowest bound, and its largest term."""
    setting = setting._replace(steps=np.full(len(configs), float(MAX_STEPS)))
    if tune:
        setting = setting._replace(step_size=best_step_size(constants, effects, setting))
    terms = bound(constants, effects, setting)
    totals = np.where(np.isfinite(estimated.costs.seconds), terms.total, np.inf)
    lowest = int(np.argmin(totals))
    shares = {name: float(value[lowest]) for name, value in terms.shares._asdict().items()}
    largest = max(shares, key=lambda name: shares[name])
    hint = "" if tune else "; --tune_step_size may reach less"
    reason = (
        f"no setting reaches a lower bound in {MAX_STEPS} exchanges; the lowest is that of "
        f"{describe(configs[lowest])}, whose largest term, {largest.replace('_', ' ')}, is "
        f"{shares[largest]:.4g}{hint}"
    )
    return flag_error("target", target, f"at least {totals[lowest]:.4g}", reason=reason)


def make(
    base: Config, lists: list[list[Changes]], source: MeasuredRun | Path, goal: Goal,
    tune: bool = False,
) -> Plan:  # fmt: skip
    """Finds the best setting: the fastest to the target, or the least bound within the budgets.

    Args:
      base: the config that all settings change.
      lists: what to vary, from `axes`.
      source: of the number of rounds: a run with measured constants, or a table of measured rounds.
      goal: of the plan.
      tune: whether to choose the bound's best step size for each setting, instead of the learning
        rate of `base`.

    Raises:
      UserError: impossible settings, or a goal that none of them reaches.
    """
    grid = config_grid(base, lists)
    keep_programs(base.compilation_cache)
    configs, fastest = list(grid.flat), isinstance(source, Path) or goal.target is not None
    rounds = settings.measured_rounds(source, configs) if isinstance(source, Path) else None
    estimated = estimate(grid)
    costs = estimated.costs
    if isinstance(source, Path):
        assert rounds is not None
        predicted = predictions.as_measured(costs, rounds, step_size(base))
    else:
        if goal.target is None:
            needs = goal.needs(costs.period * costs.seconds, costs.period * costs.joules)
            settings.check_budgets(configs, needs, "one period")
        predicted = predict(base, estimated, configs, source, goal, tune)
    allowed = np.isfinite(predicted.seconds)
    if fastest:
        needs = goal.needs(predicted.seconds, predicted.joules)
        allowed = settings.check_budgets(configs, needs, "the goal")
    chosen = predictions.best(predicted.seconds if fastest else predicted.bound, allowed)
    assert chosen is not None  # otherwise an error was raised
    notes = notes_of(configs, estimated, predicted, chosen, source)
    panels = _panels(costs, predicted, fastest)
    return Plan(configs, estimated, predicted, chosen, notes, panels)


def _panels(costs: RoundCosts, predicted: Predictions, fastest: bool) -> list[Panel]:
    """Panels of the figure `pareto`: what a goal costs, or the bound against its costs."""
    joules = ("energy in all (J)", predicted.joules)
    seconds_a_round = ("time of a round (s)", costs.seconds)
    if fastest:
        rounds, seconds = ("rounds", predicted.rounds), ("time in all (s)", predicted.seconds)
        return [Panel(seconds_a_round, rounds), Panel(seconds, joules)]
    reached = ("bound on the squared gradient norm", predicted.bound)
    return [Panel(seconds_a_round, reached), Panel(joules, reached)]


def conduct(plan: Plan, output: Name, command: str) -> None:
    """Prints the choice and a table of it and the settings that no other setting beats.

    Writes `plan.flags`, `plan.md` and the figure `pareto`.

    Args:
      plan: from `make`.
      output: folder for the files.
      command: the command line that asked for the plan.
    """
    output = local("output", output)
    configs, estimated, predicted, chosen, notes, panels = plan
    rows = np.flatnonzero(np.any([pareto.pareto(panel.points) for panel in panels], axis=0))
    rows = np.union1d(rows, chosen)
    columns = {
        "s a round": estimated.costs.seconds[rows],
        "J a round": estimated.costs.joules[rows],
        **{name.replace("_", " "): x[rows] for name, x in predicted._asdict().items()},
    }
    row = rows.tolist().index(chosen)
    some = any(map(quorums.waits_for_some, configs))
    table = settings.table([configs[i] for i in rows], columns, row, some)
    facts = ", ".join(f"{n} {x[row]:.4g}" for n, x in columns.items() if np.isfinite(x[row]))
    text = "\n".join([f"chosen: {describe(configs[chosen])}", f"  {facts}", "", table, "", *notes])
    config = plan.choice
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "plan.md", text + "\n")
    write_atomically(output / "plan.flags", settings.flag_file(config, _CHOSEN, [command, facts]))
    what = f"{model_title(config)} on {title_of(config.dataset)}, {config.clients} clients"
    figure = pareto.trade(panels, chosen, f"{what}, {config.network}")
    save_each(figure, output / "pareto", config.figure_format)
    train = shlex.join([*other_program("train"), f"--flagfile={output / 'plan.flags'}"])
    print(f"{text}\n\n{train}")
