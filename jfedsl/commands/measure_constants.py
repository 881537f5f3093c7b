"""Measures the constants of the convergence bound at the newest checkpoint of a run.

jfedsl measure-constants --workdir=runs/first
"""

from absl import flags

from jfedsl.commands.of_run import define_run
from jfedsl.errors import flag_error
from jfedsl.run.constants_recorder import measure_run
from jfedsl.run.script import start as start_program
from jfedsl.theory.measure import DEFAULT_EFFORT, Effort

_EFFORT = {
    "pairs": ("Pairs of mini-batches that every participant draws.", 2),
    "iterations": ("Hessian-vector products of the power iteration.", 1),
    "examples": ("Examples over which the Hessian is averaged.", 1),
    "block": ("Examples of f computed at once.", 1),
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    define_run(values)
    for name, (text, least) in _EFFORT.items():
        default = getattr(DEFAULT_EFFORT, name)
        flags.DEFINE_integer(name, default, text, lower_bound=least, flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Prints every constant with its standard error."""
    if not given.workdir:
        raise flag_error("workdir", "", "the workdir of a run with a checkpoint")
    effort = Effort(given.pairs, given.iterations, given.examples, given.block)
    print(measure_run(given.workdir, effort, given.data_dir, given.plugin))


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda _: main(flags.FLAGS), define=define, about=__doc__)
