"""The planner for programs in Python."""

from collections.abc import Mapping, Sequence
from typing import Any

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.files.paths import Name
from jfedsl.planner.plan import Goal, Plan, make, source_of
from jfedsl.planner.settings import AXES, axes
from jfedsl.run.assemble.shares import counted


def plan(
    config: Config,
    choices: Mapping[str, Sequence[Any]],
    goal: Goal,
    constants: Name = "",
    rounds_table: Name = "",
    tune_step_size: bool = False,
) -> Plan:
    """Predicts every combination of settings, and chooses one, as `jfedsl plan` does.

    Examples:
      >>> from jfedsl import Config, Goal, plan
      >>> choices = {"periods": [1, 4], "bits": [4, 8]}
      >>> result = plan(Config(), choices, Goal(seconds=60.0), "runs/measured")  # doctest: +SKIP
      >>> result.choice.aggregate_every  # doctest: +SKIP
      4

    Args:
      config: what all settings change.
      choices: values to combine, by the flags of `jfedsl plan`: cuts, prune_rates, periods, bits,
        dropout_rates, allocations and quorums.
      goal: what to reach, or the budgets.
      constants: workdir of a run with `measure_constants_every`, for the convergence bound.
      rounds_table: CSV file of measured rounds by setting, instead of the bound.
      tune_step_size: whether to choose the bound's best step size for each setting.

    Raises:
      UserError: a choice that there is not, an impossible setting, or a goal that none reaches.
    """
    for name in choices:
        if name not in AXES:
            raise flag_error("choices", name, f"by {', '.join(AXES)}", AXES)
    config = counted(config)
    lists = axes(config, {name: list(map(str, values)) for name, values in choices.items()})
    source, _ = source_of(config, goal, str(constants), str(rounds_table), ".")
    return make(config, lists, source, goal, tune_step_size)
