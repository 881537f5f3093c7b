"""The studies behind this repository's results: their files, their work in parts, their results."""

import dataclasses
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jfedsl.commands import bound_study, cases_study
from jfedsl.config import Config
from jfedsl.config.flags import define_flags, from_flags
from jfedsl.errors import UserError, flag_error
from jfedsl.run.presets import presets
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies import bound, study
from jfedsl.studies.bound import BoundStudy
from jfedsl.studies.configs import run_configs
from jfedsl.studies.records import Known, Record
from jfedsl.studies.rounds_table import ROUNDS, rounds_table
from jfedsl.studies.study import Result, Study
from jfedsl.studies.tables import table

# Files of presets/studies by what reads them, in the order in which they are made.
CASES = (
    "digits", "methods", "source_claims", "compressors", "hundred_clients", "partitions",
    "resnet18", "quorum", "fine_tuning", "natural_clients",
)  # fmt: skip
BOUNDS = ("bound_digits", "bound_fashion")
STEPS = ("tune", "train")  # of the work: each in parts that need nothing of each other


class Task(NamedTuple):
    """A part of the work of one process: settings of a study to tune or to train.

    Attributes:
      study: its name.
      setting: name of the setting; empty for a study of the bound, which is one task.
    """

    study: str
    setting: str


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Studies to make.

    Attributes:
      names: of the studies.
      workdir: folder of their runs.
      results: folder of their results, one folder each.
      extra: flags for every study, which override those of its file.
    """

    names: Sequence[str]
    workdir: Path
    results: Path
    extra: Sequence[str]

    def study(self, name: str) -> Study:
        """The study of named settings in a file."""
        config, given = self._parsed(name, cases_study)
        return cases_study.study_of(config, given)

    def bound_study(self, name: str) -> BoundStudy:
        """The study of the bound in a file."""
        return bound_study.study_of(*self._parsed(name, bound_study))

    def known(self, name: str, trains: bool = True) -> Known:
        """Where records of a study come from."""
        return study.read_known(self.results / name, trains)

    def refused(self) -> dict[str, str]:
        """What is wrong with studies that cannot be made, by their names; nothing is trained."""
        return {name: text for name in self.names if (text := self._refusal(name))}

    def _refusal(self, name: str) -> str:
        try:
            if name in BOUNDS:
                bound.check(self.bound_study(name))
            else:
                study.check(self.study(name))
        except UserError as error:
            return str(error)
        return ""

    def tasks(self, step: str) -> Iterator[Task]:
        """The tasks of a step, in order."""
        for name in self.names:
            if name in BOUNDS:
                yield from [Task(name, "")] if step == "train" else []
                continue
            one = self.study(name)
            for setting in one.tuned if step == "tune" else one.settings:
                yield Task(name, setting)

    def do(self, step: str, task: Task) -> None:
        """Trains the runs of a task that are not finished."""
        if task.study in BOUNDS:
            earlier = [self.results / task.study]
            bound.train(self.bound_study(task.study), self.known(task.study), earlier)
            return
        one, known = self.study(task.study), self.known(task.study)
        if step == "tune":
            study.tune(one, known, [task.setting])
        else:
            tries = study.tune(one, known, [one.leader(task.setting)])
            study.train(one, tries, known, [task.setting])

    def write(self, name: str) -> None:
        """Writes the results of a study whose runs are finished or recorded.

        Raises:
          UserError: a run is neither.
        """
        folder = self.results / name
        if name in BOUNDS:
            of_bound = self.bound_study(name)
            made = bound.read(of_bound, self.known(name, trains=False), [folder])
            bound.write(of_bound, made, folder)
        else:
            one, result = self.study(name), self.result(name)
            study.write(one, result, folder)
            if rounds := rounds_table(one, result.outcomes(one)):
                write_atomically(folder / ROUNDS, rounds)

    def result(self, name: str) -> Result:
        """What the runs of a study gave, of which none is trained."""
        one, known = self.study(name), self.known(name, trains=False)
        tries = study.tune(one, known)
        return Result(study.train(one, tries, known), tries)

    def compare(self, count: int, seed: int) -> list[str]:
        """Trains some runs again, drawn at random, and compares them with their records.

        Args:
          count: of runs.
          seed: of the draw.

        Returns:
          A line for each number that differs as printed; none if all are the same.

        Raises:
          UserError: no study has records, or a run of one has none.
        """
        results = {n: self.result(n) for n in self.names if n not in BOUNDS and self._has(n)}
        cells = [
            (name, setting, n)
            for name, result in results.items()
            for setting, records in result.records.items()
            for n, _ in enumerate(records)
        ]
        if not cells:
            raise flag_error("results", str(self.results), "a folder with results to compare with")
        lines = []
        for name, setting, n in random.Random(seed).sample(cells, min(count, len(cells))):
            config = self._config(name, results[name], setting, n)
            recorded = self.known(name).recorded(config)
            if recorded is None:
                what = f"{name}, {setting}, seed {config.seed}"
                raise UserError(f"{what} has no record in {self.results / name}; write it first")
            print(f"again: {name}, {setting}, seed {config.seed}", flush=True)
            lines += _differences(self.study(name), recorded, Known().record(setting, config))
        return lines

    def _has(self, name: str) -> bool:
        return (self.results / name / study.RECORDS).exists()

    def _config(self, name: str, result: Result, setting: str, n: int) -> Config:
        """The config of a run, with a folder in which it was not trained yet."""
        one = self.study(name)
        base = dataclasses.replace(one.base, workdir=str(self.workdir / "again" / name))
        settings = study.with_rates(dataclasses.replace(one, base=base), result.tries, [setting])
        config = run_configs(base, settings, one.seeds)[setting][n]
        shutil.rmtree(config.workdir, ignore_errors=True)
        return config

    def _parsed(self, name: str, command: Any) -> tuple[Config, flags.FlagValues]:
        """The config and the own flags of the command that reads a study's file."""
        values = flags.FlagValues()
        define_flags(values)
        command.define(values)
        place = [f"--workdir={self.workdir / name}"]
        try:
            rest = values([name, f"--flagfile={presets(False)[name]}", *self.extra, *place])
            if rest[1:]:
                raise flag_error("set", rest[1], "a flag, --name=value")
            return from_flags(values), values
        except (flags.Error, UserError) as error:
            raise UserError(f"study {name}: {error}") from None


def _differences(one: Study, record: Record, again: Record) -> list[str]:
    """What a table of one run shows differently of two records of it."""
    columns = study.columns_of(one.base)
    tables = [
        table([study.outcome_of(one, made.setting, [made])], columns) for made in (record, again)
    ]
    if record.flags == again.flags and tables[0] == tables[1]:
        return []
    return [f"recorded: {tables[0].splitlines()[-1]}", f"again:    {tables[1].splitlines()[-1]}"]


def names_of(texts: Sequence[str]) -> list[str]:
    """The studies with these names, or all if there are none, in their order.

    Raises:
      UserError: an unknown name.
    """
    every = [*CASES, *BOUNDS]
    for text in texts:
        if text not in every:
            raise flag_error("only", text, f"some of {', '.join(every)}", every)
    return [name for name in every if not texts or name in texts]
