"""Measures the constants of the convergence bound at the newest checkpoint of a run.

python experiments/measure_constants.py --workdir=runs/first
"""

from jfedsl.run import startup  # noqa: F401 (first: what follows takes seconds)

# isort: split
from absl import flags

from jfedsl.errors import flag_error
from jfedsl.run.constants_recorder import measure_run
from jfedsl.run.script import start
from jfedsl.theory.measure import DEFAULT_EFFORT, Effort

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared data sets; default as in the run."
)
_PLUGIN = flags.DEFINE_string(
    "plugin", "", "Plugins of the run that are not where they were, separated by commas."
)


def _count(name: str, text: str, least: int = 1) -> flags.FlagHolder[int]:
    return flags.DEFINE_integer(name, getattr(DEFAULT_EFFORT, name), text, lower_bound=least)


_EFFORT = (
    _count("pairs", "Pairs of mini-batches that every participant draws.", 2),
    _count("iterations", "Products with the Hessian in the power iteration."),
    _count("examples", "Examples that the Hessian is of."),
    _count("block", "Examples of f computed at once."),
)


def main(_: list[str]) -> None:
    """Prints every constant with its standard error."""
    if not _WORKDIR.value:
        raise flag_error("workdir", "", "the workdir of a run with a checkpoint")
    effort = Effort(*(count.value for count in _EFFORT))
    print(measure_run(_WORKDIR.value, effort, _DATA_DIR.value, _PLUGIN.value))


if __name__ == "__main__":
    start(main)
