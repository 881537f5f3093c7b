"""Plans a run: predicts the cost of settings and writes the best one as flags of a run.

jfedsl plan --constants=runs/measured --target=0.05 --periods=1,2,4,8 --prune_rates=0,0.3
    --bits=4,8 --allocations=equal,minmax --output=runs/plan

The best setting reaches --target in the least time, or has the least bound within the budgets. Each
list gives values of one flag. Prints the choice; writes plan.flags, plan.md and pareto.png.
"""

import shlex
import sys

from absl import flags

from jfedsl.config import Config
from jfedsl.files.program import this_program
from jfedsl.planner.plan import Goal, conduct, make, source_of
from jfedsl.planner.settings import axes
from jfedsl.run.assemble.shares import counted
from jfedsl.run.script import run

_DEFAULT = "default the flag of the run."
_LISTS = {
    "cuts": "Cuts to choose from",
    "periods": "Rounds in an aggregation period, aggregate_every, to choose from",
    "prune_rates": "Prune rates to choose from",
    "bits": "Bits of gradients, after a slash those of the activation, to choose from",
    "dropout_rates": "Dropout rates at the cut to choose from",
    "allocations": "Ways to allocate bandwidth to choose from",
    "quorums": "Clients that the server waits for to choose from, a number or all",
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    for name, what in _LISTS.items():
        flags.DEFINE_list(name, None, f"{what}; {_DEFAULT}", values)
    flags.DEFINE_string(
        "constants", "", "Workdir of a run with --measure_constants_every, for the bound.", values
    )
    flags.DEFINE_string(
        "rounds_table", "", "CSV file of measured rounds by setting, instead of the bound.", values
    )
    for name, text in (
        ("target", "Squared gradient norm to bring the bound to."),
        ("budget_seconds", "Budget of simulated seconds."),
        ("budget_joules", "Budget of joules of all clients together."),
    ):
        flags.DEFINE_float(name, None, text, flag_values=values)
    flags.DEFINE_boolean(
        "tune_step_size", False, "Choose the bound's best step sizes.", flag_values=values
    )
    flags.DEFINE_string("output", "", "Folder for the plan.", values)


def main(config: Config, given: flags.FlagValues) -> None:
    """Makes the plan, prints it and writes its files."""
    goal = Goal(given.target, given.budget_seconds, given.budget_joules)
    config = counted(config)
    lists = axes(config, {name: given[name].value for name in _LISTS})
    source, output = source_of(config, goal, given.constants, given.rounds_table, given.output)
    plan = make(config, lists, source, goal, given.tune_step_size)
    conduct(plan, output, shlex.join([*this_program(), *sys.argv[1:]]))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
