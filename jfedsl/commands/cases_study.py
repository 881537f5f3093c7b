"""Compares named settings over seeds by their bytes, seconds and joules.

jfedsl study cases --preset=methods
jfedsl study cases --workdir=runs/rates --seeds=0,1 --case="slow: --client_learning_rate=0.01"
    --case="fast: --client_learning_rate=0.1" --figure="rates: slow; fast"

All other flags apply to every setting. Writes tables, figures and records of the runs into
--workdir: means over seeds, every setting against --reference seed by seed, and the verdict on each
--claim. With --tries the learning rates of every setting are chosen first, on the validation set.
The same command resumes an interrupted study. jfedsl sweep with the same cases and folder trains
some of its runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from absl import flags

from jfedsl.config import Config
from jfedsl.config.allowed import OneOf
from jfedsl.errors import flag_error
from jfedsl.run.script import run
from jfedsl.studies.claim_text import FORM, claims_of
from jfedsl.studies.claims import Claim
from jfedsl.studies.columns import metric_columns, test_columns
from jfedsl.studies.configs import seeds_of
from jfedsl.studies.outcome import expected_tasks
from jfedsl.studies.study import Changes, Study, columns_of, conduct
from jfedsl.studies.sweep import grid
from jfedsl.studies.tuning import Tuning


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_multi_string("case", [], "A named setting, NAME: --flag=value ...", values)
    flags.DEFINE_multi_string(
        "vary", [], "A flag and its values, flag=value value ...; combined with cases.", values
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every setting.", values)
    flags.DEFINE_multi_string(
        "figure", [], "A figure of some settings, NAME: setting; ... Default: one of all.", values
    )
    flags.DEFINE_string(
        "reference", "", "Setting that the others are compared with. Default: the first.", values
    )
    flags.DEFINE_multi_string(
        "claim", [], f"A claim that the seeds are to test, {FORM}. MEASURE is a column of the "
        "tables. A comparison is A / B < 1 or A / B < C / D of costs, A - B > -0.01 of metrics, "
        "with names of settings, and < or >.", values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "tries", 0, "Tries of learning rates of every setting, on the validation set; at least 3. "
        "0: the rates as they are given.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list("tune_seeds", ["100"], "Seeds of each try, none of --seeds.", values)
    flags.DEFINE_multi_string(
        "follow", [], "Settings that are not tuned, as they take the factor of learning rates that "
        "is best for another, NAME: setting; ...", values,
    )  # fmt: skip


def study_of(config: Config, given: flags.FlagValues) -> Study:
    """The study that flags describe.

    Raises:
      UserError: no settings, an impossible one, or a name of none.
    """
    if not (given.case or given.vary):
        raise flag_error("case", "", "named settings, each NAME: --flag=value ...")
    settings = grid(config, given.case, given.vary)
    if given.reference and given.reference not in settings:
        raise flag_error("reference", given.reference, OneOf(list(settings)).text, settings)
    return Study(
        config,
        settings,
        seeds_of(given.seeds),
        given.reference,
        groups_of("figure", given.figure, settings, files=True) or None,
        tuning_of(given, settings),
        _claims(config, settings, given.claim) if given.claim else (),
    )


def _claims(base: Config, settings: Mapping[str, Changes], texts: Sequence[str]) -> list[Claim]:
    """The entries of --claim, checked before anything is trained."""
    tasks = expected_tasks(dataclasses.replace(base, **changes) for changes in settings.values())
    metrics = {**metric_columns(tasks), **test_columns(tasks)}
    return claims_of(texts, settings, metrics, columns_of(base))


def tuning_of(given: flags.FlagValues, settings: Mapping[str, Changes]) -> Tuning | None:
    """How flags say that learning rates are chosen; None without `--tries`.

    Raises:
      UserError: an unknown setting, or one that follows two others or a follower.
    """
    groups = groups_of("follow", given.follow, settings)
    follow: dict[str, str] = {}
    for leader, members in groups.items():
        for member in members:
            if member in follow or member in groups or leader not in settings:
                raise flag_error(
                    "follow", f"{leader}: {member}", "NAME: setting; ... with settings of the "
                    "study, each following one that is tuned",
                )  # fmt: skip
            follow[member] = leader
    seeds = seeds_of(given.tune_seeds, "tune_seeds")
    return Tuning(given.tries, seeds, follow) if given.tries else None


def groups_of(
    flag: str, texts: Sequence[str], settings: Mapping[str, Changes], files: bool = False
) -> dict[str, list[str]]:
    """Named lists of settings, from the entries of a flag.

    >>> groups_of("figure", ["both: slow; fast"], {"slow": {}, "fast": {}})
    {'both': ['slow', 'fast']}

    Args:
      flag: name of the flag, for errors.
      texts: its entries, NAME: setting; ...
      settings: of the study.
      files: whether the names are those of files.

    Raises:
      UserError: another form, a name that two entries have, or a setting that is not compared.
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, _, rest = (part.strip() for part in text.partition(":"))
        members = [member.strip() for member in rest.split(";") if member.strip()]
        if not name or name in groups or not members or (files and not name.isidentifier()):
            form = "NAME: setting; ... with each name once"
            raise flag_error(flag, text, f"{form}, of letters and digits" if files else form)
        unknown = next((member for member in members if member not in settings), None)
        if unknown is not None:
            raise flag_error(flag, unknown, OneOf(list(settings)).text, settings)
        groups[name] = members
    return groups


def main(config: Config, given: flags.FlagValues) -> None:
    """Trains all settings, draws the figures and prints the tables."""
    conduct(study_of(config, given))


def start() -> None:
    """Runs it on the command line."""
    run(lambda config: main(config, flags.FLAGS), False, define, __doc__)
