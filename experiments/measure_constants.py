"""Measures the constants of the convergence bound at the newest checkpoint of a run.

python experiments/measure_constants.py --workdir=runs/first
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from absl import flags

from jfedsl.errors import flag_error
from jfedsl.run.constants_recorder import measure_run
from jfedsl.run.script import start
from jfedsl.theory.measure import DEFAULT_EFFORT, Effort

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared data sets; default that of the run."
)
_PLUGIN = flags.DEFINE_string(
    "plugin", "", "Plugins of the run that have moved since, separated by commas."
)


def _define(name: str, help_text: str, least: int = 1) -> flags.FlagHolder[int]:
    """A flag for the field `name` of `Effort`."""
    return flags.DEFINE_integer(name, getattr(DEFAULT_EFFORT, name), help_text, lower_bound=least)


_EFFORT = (
    _define("pairs", "Pairs of mini-batches that every participant draws.", 2),
    _define("iterations", "Hessian-vector products of the power iteration."),
    _define("examples", "Examples over which the Hessian is averaged."),
    _define("block", "Examples of f computed at once."),
)


def main(_: list[str]) -> None:
    """Prints every constant with its standard error."""
    if not _WORKDIR.value:
        raise flag_error("workdir", "", "the workdir of a run with a checkpoint")
    effort = Effort(*(flag.value for flag in _EFFORT))
    print(measure_run(_WORKDIR.value, effort, _DATA_DIR.value, _PLUGIN.value))


if __name__ == "__main__":
    start(main)
