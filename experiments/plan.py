"""Plans a run: predicts the cost of settings and writes the best one as flags for train.py.

python experiments/plan.py --constants=runs/measured --target=0.05 --periods=1,2,4,8
    --prune_rates=0,0.3 --bits=4,8 --allocations=equal,minmax --output=runs/plan

The best setting reaches --target in the least time, or has the least bound within the budgets. Each
list gives values of one flag. Prints the choice; writes plan.flags, plan.md and pareto.png.
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
import shlex
import sys

from absl import flags

from jfedsl.config import Config
from jfedsl.planner.plan import Goal, conduct, make, source_of
from jfedsl.planner.settings import axes
from jfedsl.run.script import run

_DEFAULT = "default the flag of the run."
_LISTS = {
    name: flags.DEFINE_list(name, None, f"{what}; {_DEFAULT}")
    for name, what in (
        ("cuts", "Cuts to choose from"),
        ("periods", "Rounds in an aggregation period, aggregate_every, to choose from"),
        ("prune_rates", "Prune rates to choose from"),
        ("bits", "Bits of gradients, after a slash those of the activation, to choose from"),
        ("dropout_rates", "Dropout rates at the cut to choose from"),
        ("allocations", "Ways to allocate bandwidth to choose from"),
    )
}
_CONSTANTS = flags.DEFINE_string(
    "constants",
    "",
    "Workdir of a run with --measure_constants_every, for the bound.",
)
_TABLE = flags.DEFINE_string(
    "rounds_table", "", "CSV file of measured rounds by setting, instead of the bound."
)
_TARGET = flags.DEFINE_float("target", None, "Squared gradient norm to bring the bound to.")
_SECONDS = flags.DEFINE_float("budget_seconds", None, "Budget of simulated seconds.")
_JOULES = flags.DEFINE_float("budget_joules", None, "Budget of joules of all clients together.")
_TUNE = flags.DEFINE_boolean("tune_step_size", False, "Choose the bound's best step sizes.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder for the plan.")


def main(config: Config) -> None:
    """Makes the plan, prints it and writes its files."""
    goal = Goal(_TARGET.value, _SECONDS.value, _JOULES.value)
    lists = axes(config, {name: flag.value for name, flag in _LISTS.items()})
    source, output = source_of(config, goal, _CONSTANTS.value, _TABLE.value, _OUTPUT.value)
    plan = make(config, lists, source, goal, _TUNE.value)
    conduct(plan, output, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    run(main, one_run=False)
