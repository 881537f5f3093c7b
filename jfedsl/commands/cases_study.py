"""Compares named settings over seeds by their bytes, seconds and joules.

jfedsl study cases --preset=algorithms
jfedsl study cases --workdir=runs/rates --seeds=0,1 --case="slow: --client_learning_rate=0.01"
    --case="fast: --client_learning_rate=0.1" --figure="rates: slow, fast"

All other flags apply to every setting. Writes tables and figures into --workdir: means over seeds,
every setting against --reference seed by seed, and the verdict on each --claim. The same command
resumes an interrupted study.
jfedsl sweep with the same cases and folder trains some of its runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from absl import flags

from jfedsl.config import Config
from jfedsl.config.allowed import OneOf
from jfedsl.errors import flag_error
from jfedsl.run.script import run
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.studies.axes import MEGABYTES, SECONDS
from jfedsl.studies.claim_text import FORM, claims_of
from jfedsl.studies.claims import Claim
from jfedsl.studies.columns import (
    Column,
    median_round_seconds,
    megabytes,
    metric_columns,
    simulated,
    test_columns,
    to_target,
)
from jfedsl.studies.outcome import expected_tasks
from jfedsl.studies.study import Changes, Figures, conduct, seeds_of
from jfedsl.studies.sweep import grid

COLUMNS: dict[str, Column] = {
    "rounds": lambda summary: summary["rounds"],
    "MB sent": megabytes(*STREAMS),
    "MB to target": to_target("bytes", 1e6),
    "seconds": simulated("seconds"),
    "seconds to target": to_target("seconds"),
    "median s a round": median_round_seconds,
    "device joules": simulated("energy_joules"),
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_multi_string("case", [], "A named setting, NAME: --flag=value ...", values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)
    flags.DEFINE_multi_string(
        "figure", [], "A figure of some settings, NAME: setting, ... Default: one of all.", values
    )
    flags.DEFINE_string(
        "reference", "", "Setting that the others are compared with. Default: the first.", values
    )
    flags.DEFINE_multi_string(
        "claim", [], f"A claim that the seeds are to test, {FORM}. MEASURE is a column of the "
        "tables. A comparison is A / B < 1 or A / B < C / D of costs, A - B > -0.01 of metrics, "
        "with names of settings, and < or >.", values,
    )  # fmt: skip


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings, draws the figures and prints the table."""
    if not given.case:
        raise flag_error("case", "", "named settings, each NAME: --flag=value ...")
    if config.network == "none":
        raise flag_error("network", "none", "a network", reason="without one nothing takes time")
    settings = grid(config, given.case, ())
    figures = figures_of(given.figure, settings)
    seeds, reference = seeds_of(given.seeds), given.reference or next(iter(settings))
    if reference not in settings:
        raise flag_error("reference", reference, OneOf(list(settings)).text, settings)
    claims = _claims(config, settings, given.claim) if given.claim else []
    conduct(config, settings, COLUMNS, seeds, (MEGABYTES, SECONDS), figures, reference, claims)


def _claims(base: Config, settings: Mapping[str, Changes], texts: Sequence[str]) -> list[Claim]:
    """The entries of --claim, checked before anything is trained."""
    tasks = expected_tasks(dataclasses.replace(base, **changes) for changes in settings.values())
    return claims_of(texts, settings, {**metric_columns(tasks), **test_columns(tasks)}, COLUMNS)


def figures_of(texts: Sequence[str], settings: Mapping[str, Changes]) -> Figures | None:
    """The settings in each figure, by its file name, from the entries of --figure.

    >>> figures_of(["both: slow, fast"], {"slow": {}, "fast": {}})
    {'both': ['slow', 'fast']}

    Raises:
      UserError: another form, a name that two figures have, or a setting that is not compared.
    """
    figures: dict[str, list[str]] = {}
    for text in texts:
        name, _, rest = (part.strip() for part in text.partition(":"))
        members = [member.strip() for member in rest.split(",") if member.strip()]
        if not name.isidentifier() or name in figures or not members:
            raise flag_error(
                "figure", text, "NAME: setting, ... with a name of letters and digits, each once"
            )
        unknown = next((member for member in members if member not in settings), None)
        if unknown is not None:
            raise flag_error("figure", unknown, OneOf(list(settings)).text, settings)
        figures[name] = members
    return figures or None


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
