"""The planner: settings enumerated, what each is predicted to take, the best of them as flags."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfedsl.config import Config, shown
from jfedsl.errors import UserError, flag_error, no_effect
from jfedsl.files.paths import Name, local
from jfedsl.planner import settings
from jfedsl.planner import survey as planning
from jfedsl.planner.settings import Changes, configs_of
from jfedsl.planner.source import Measured, effects_of, measured
from jfedsl.planner.survey import Outlook, Survey
from jfedsl.run.convergence import scope, setting_of, step_size
from jfedsl.run.plots import pareto
from jfedsl.run.plots.pareto import Panel
from jfedsl.run.processes.compilation import keep_programs
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.theory.bound import best_step_size, bound

# Flags that a plan writes whatever their value.
_CHOICE = (
    "cut", "aggregate_every", "prune_kind", "prune_rate", "cut_gradient_bits",
    "client_gradient_bits", "dropout_rate", "allocation", "rounds",
)  # fmt: skip
# Settings that constants depend on.
_AROUND = (
    "batch_size", "clients", "participants", "partition", "dirichlet_alpha", "quantity_alpha",
    "classes_per_client", "min_examples", "train_examples", "aggregation", "optimizer", "momentum",
    "sampling",
)  # fmt: skip


class Goal(NamedTuple):
    """What is wanted: a squared gradient norm, or the least within budgets of seconds or joules."""

    target: float | None = None
    seconds: float | None = None
    joules: float | None = None

    def needs(self, seconds: np.ndarray, joules: np.ndarray) -> dict[str, Any]:
        """Each budget by its flag, with what settings `[n]` take of it."""
        return {"budget_seconds": (self.seconds, seconds), "budget_joules": (self.joules, joules)}


class Plan(NamedTuple):
    """Every setting with what it comes to, and which is chosen."""

    configs: list[Config]
    survey: Survey
    outlook: Outlook
    chosen: int
    notes: list[str]
    panels: list[Panel]


def source_of(
    base: Config, goal: Goal, constants: str, table: str, output: str
) -> tuple[Measured | Path, Path]:
    """Where rounds come from, and the folder for the plan, once all of that makes sense.

    Raises:
      UserError: names the flag that is missing, too much or of no use.
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
    return local("rounds_table", table) if table else measured(base, constants), folder


def predict(
    base: Config, survey: Survey, configs: list[Config], source: Measured, goal: Goal, tune: bool
) -> Outlook:
    """What every setting comes to by the bound; refuses a target that none reaches.

    Raises:
      UserError: no setting's bound comes down to the target; says how low it comes, and by which
        of its terms.
    """
    gamma = step_size(base)
    if not tune and not gamma:
        raise flag_error("client_learning_rate", gamma, "above 0 without --tune_step_size")
    effects, grid, steps = effects_of(source, survey, configs), survey.grid, planning.MOST_STEPS
    setting = setting_of(base, survey.experiment, 1)._replace(
        cut=survey.cut,
        step_size=np.full(len(configs), gamma),
        period=grid.period * grid.local_steps,
    )
    if goal.target is None:
        budgets = (goal.seconds or np.inf) / grid.seconds, (goal.joules or np.inf) / grid.joules
        return planning.within(grid, source.constants, effects, setting, np.minimum(*budgets), tune)
    outlook = planning.to_target(grid, source.constants, effects, setting, goal.target, tune)
    if np.isfinite(outlook.seconds).any():
        return outlook
    last = setting._replace(steps=np.full(len(configs), float(steps)))
    if tune:
        last = last._replace(step_size=best_step_size(source.constants, effects, last))
    terms = bound(source.constants, effects, last)
    totals = np.where(np.isfinite(grid.seconds), terms.total, np.inf)
    lowest = int(np.argmin(totals))
    parts = {name: float(value[lowest]) for name, value in terms.shares._asdict().items()}
    most = max(parts, key=lambda name: parts[name])
    hint = "" if tune else "; --tune_step_size may reach less"
    allowed = f"at least {totals[lowest]:.4g}"
    reason = (
        f"no setting reaches a lower bound in {steps} exchanges; the lowest is that of "
        f"{settings.setting(configs[lowest])}, whose largest term, {most.replace('_', ' ')}, is "
        f"{parts[most]:.4g}{hint}"
    )
    raise flag_error("target", goal.target, allowed, reason=reason)


def make(
    base: Config, lists: list[list[Changes]], source: Measured | Path, goal: Goal,
    tune: bool = False,
) -> Plan:  # fmt: skip
    """Finds the best setting: the soonest at the goal, or the least bound within budgets.

    Args:
      base: of all settings.
      lists: what to vary, from `axes`.
      source: of rounds: constants for the bound, or a table of measured rounds.
      goal: what is wanted.
      tune: whether to choose the bound's best step size for every setting, instead of the
        config's learning rate.

    Raises:
      UserError: settings that cannot be, or a goal that none of them reaches.
    """
    grid_of = configs_of(base, lists)
    keep_programs(base.compilation_cache)
    configs, soonest = list(grid_of.flat), isinstance(source, Path) or goal.target is not None
    rounds = settings.rounds_in(source, configs) if isinstance(source, Path) else None
    survey = planning.survey(grid_of)
    grid = survey.grid
    if isinstance(source, Path):
        assert rounds is not None
        outlook = planning.as_measured(grid, rounds, step_size(base))
    else:
        if goal.target is None:
            once = grid.period * grid.seconds, grid.period * grid.joules
            settings.check_budgets(configs, goal.needs(*once), "one period")
        outlook = predict(base, survey, configs, source, goal, tune)
    allowed = np.isfinite(outlook.seconds)
    if soonest:
        needs = goal.needs(outlook.seconds, outlook.joules)
        allowed = settings.check_budgets(configs, needs, "the goal")
    objective = outlook.seconds if soonest else outlook.bound
    chosen = planning.best(objective, allowed)
    assert chosen is not None  # else an error has said why
    notes = _notes(configs, survey, outlook, chosen, source)
    rows = ("rounds", outlook.rounds), ("seconds in all", outlook.seconds)
    low = ("bound on the squared gradient norm", outlook.bound)
    joules, once = ("joules in all", outlook.joules), ("seconds a round", grid.seconds)
    pairs = ((once, rows[0]), (rows[1], joules)) if soonest else ((once, low), (joules, low))
    panels = [Panel(*pair) for pair in pairs]
    return Plan(configs, survey, outlook, chosen, notes, panels)


def _notes(
    configs: list[Config], survey: Survey, outlook: Outlook, chosen: int, source: Measured | Path
) -> list[str]:
    notes = [f"left out, {settings.setting(configs[i])}: {e}" for i, e in survey.errors.items()]
    if isinstance(source, Path):
        out = [i for i, r in enumerate(outlook.rounds) if np.isinf(r) and i not in survey.errors]
        return notes + [f"left out, {settings.setting(configs[i])}: not in {source}" for i in out]
    config, run = configs[chosen], source.config
    beyond = scope(config)
    for name in ("outage_snr_db", "deadline_s"):
        if getattr(config, name) is not None:
            beyond.append(f"{name}={getattr(config, name)} (the bound has everybody there)")
    if config.expressions["smashed"] != run.expressions["smashed"] and config.smashed_bits:
        beyond.append(f"smashed_bits={config.smashed_bits} (its error is predicted as the run's)")
    steep = float(outlook.step_size[chosen]) * float(np.asarray(source.constants.beta))
    if steep > 1 + 1e-5:
        beyond.append(f"gamma * beta = {steep:.3g} (above 1)")
    other = [n for n in _AROUND if getattr(run, n) != getattr(config, n)]
    beyond += [f"{n}={shown(getattr(config, n))} ({shown(getattr(run, n))} where constants were "
               "measured)" for n in other]  # fmt: skip
    if beyond:
        notes.append(f"a heuristic here, beyond the theorem: {', '.join(beyond)}")
    return notes


def conduct(plan: Plan, output: Name, command: str) -> None:
    """Prints the choice and its table; writes `plan.flags`, `plan.md` and `pareto.png`.

    Args:
      plan: from `make`.
      output: folder for them.
      command: that asked for the plan.
    """
    output = local("output", output)
    configs, survey, outlook, chosen, notes, panels = plan
    rows = np.flatnonzero(np.any([pareto.pareto(panel.points) for panel in panels], axis=0))
    rows = np.union1d(rows, chosen)
    numbers = {
        "s a round": survey.grid.seconds, "J a round": survey.grid.joules,
        **{name.replace("_", " "): x for name, x in outlook._asdict().items()},
    }  # fmt: skip
    at = rows.tolist().index(chosen)
    own = {name: x[rows] for name, x in numbers.items()}
    table = settings.table([configs[i] for i in rows], own, at)
    facts = ", ".join(f"{name} {x[at]:.4g}" for name, x in own.items() if np.isfinite(x[at]))
    title = f"chosen: {settings.setting(configs[chosen])}\n  {facts}"
    text = "\n".join([title, "", table, "", *notes])
    config = dataclasses.replace(configs[chosen], rounds=int(outlook.rounds[chosen]))
    if outlook.step_size[chosen] != step_size(config):
        size = float(f"{outlook.step_size[chosen]:.6g}")
        config = dataclasses.replace(config, client_learning_rate=size, server_learning_rate=size)
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "plan.md", text + "\n")
    write_atomically(output / "plan.flags", settings.flag_file(config, _CHOICE, [command, facts]))
    what = f"{config.model} on {config.dataset}, {config.clients} clients, {config.network}"
    pareto.trade(panels, chosen, what, output / "pareto.png")
    print(f"{text}\n\npython experiments/train.py --flagfile={output / 'plan.flags'}")
