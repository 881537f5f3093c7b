"""A sweep: a grid of settings with seeds, trained run by run, with a table of all runs."""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jfedsl.config import Config, shown
from jfedsl.config.canonical import canonical, idle, refuse_idle
from jfedsl.config.flags import define_flags, from_flags
from jfedsl.errors import BusyError, UserError, as_text, flag_error, no_effect, one_line
from jfedsl.run.finished import finished
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.run.storage.task_record import TaskRecord, read_record
from jfedsl.run.storage.workdir import CONFIG, check, write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.configs import Changes, run_configs
from jfedsl.studies.outcome import tasks_of, tested
from jfedsl.studies.provenance import MADE_BY, made_by

RESULTS = "results.csv"  # table of a sweep
_FAILED = ".failed"  # hidden, because a run may start in a folder that has only hidden files
# Flags that a grid cannot vary.
_FIXED = ("workdir", "plugin", "seed")
_CLOCK = ("seconds", "seconds_to_target", "energy_joules", "joules_to_target")
_TO_TARGET = ("rounds_to_target", "bytes_to_target")


def grid(base: Config, cases: Sequence[str], varied: Sequence[str]) -> dict[str, Changes]:
    """The settings of a grid: every case with every combination of the varied flags.

    Args:
      base: the config that all settings change.
      cases: entries of --case, `NAME: --flag=value ...`; without any there is one nameless case.
      varied: entries of --vary, `flag=value value ...`.

    Returns:
      By the name of a setting, what it changes in the base.

    Raises:
      UserError: an unknown flag, one that is set twice, an empty list, a value that is not allowed
        or has no effect, or two equal settings.
    """
    named = [_case(text) for text in cases] or [("", [])]
    axes = [_axis(text) for text in varied]
    for _, arguments in named:
        given = [name for name, _ in axes] + [_flag_of(argument) for argument in arguments]
        repeated = next((name for name in given if given.count(name) > 1), None)
        if repeated is not None:
            raise UserError(f"--{repeated} is set twice; set it once, in --vary or in --case")
    settings: dict[str, Changes] = {}
    names: dict[tuple[Any, ...], str] = {}  # of settings by their canonical flags
    pairs = [[f"{name}={value}" for value in values] for name, values in axes]
    for (case, arguments), values in product(named, list(product(*pairs))):
        name = ", ".join([*([case] if case else []), *values]) or "base"
        if name in settings:
            raise UserError(f"two settings of the grid are named {as_text(name)}")
        config = _config(base, name, [*arguments, *(f"--{value}" for value in values)])
        first = names.setdefault(tuple(canonical(config).items()), name)
        if first != name:
            raise UserError(f"two settings of the grid are the same: {first} and {name}")
        settings[name] = {flag: getattr(config, flag) for flag in _differing(base, config)}
    return settings


def _case(text: str) -> tuple[str, list[str]]:
    """The name and the arguments of an entry of --case."""
    name, colon, rest = text.partition(":")
    arguments = rest.split()
    if not colon or not name.strip() or not all(a.startswith("--") for a in arguments):
        raise flag_error("case", text, "of the form NAME: --flag=value ...")
    for argument in arguments:
        _check_flag("case", _flag_of(argument))
    return name.strip(), arguments


def _axis(text: str) -> tuple[str, list[str]]:
    """The flag and the values of an entry of --vary."""
    name, equals, rest = text.partition("=")
    values = rest.split()
    if not equals or not values or len(set(values)) < len(values):
        raise flag_error("vary", text, "of the form flag=value value ..., each value once")
    name = name.strip().removeprefix("--")
    _check_flag("vary", name)
    return name, values


def _flag_of(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]


def _check_flag(flag: str, name: str) -> None:
    """Refuses a name, given to `flag`, that is no flag which a grid can vary."""
    names = [f.name for f in dataclasses.fields(Config) if f.name not in _FIXED]
    if name not in names:
        reason = "set seeds by --seeds" if name == "seed" else ""
        raise flag_error(flag, name, "a flag of a run", names, reason)


def _config(base: Config, name: str, arguments: Sequence[str]) -> Config:
    """The config that arguments make of the base; errors name the setting.

    The number of clients stays open where the base has the usual one: it depends on the partition.
    """
    values = flags.FlagValues()
    define_flags(values)
    for field in dataclasses.fields(Config):
        values[field.name].value = getattr(base, field.name)
    if base.clients == Config(partition=base.partition).clients:
        values["clients"].value = None
    try:
        values(["sweep", *arguments])
        config = from_flags(values)
        reasons = idle(config)
        for argument in arguments:
            flag, value = _flag_of(argument), argument.partition("=")[2]
            if flag in reasons:
                raise no_effect(flag, value, reasons[flag])
    except (flags.Error, UserError) as error:
        raise UserError(f"setting {as_text(name)!r}: {error}") from None
    return config


def shard_of(text: str) -> tuple[int, int]:
    """The number of a shard, from 1, and of all shards, from `i/n`.

    >>> shard_of("2/3")
    (2, 3)

    Raises:
      UserError: another form, or i is not from 1 to n.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise flag_error("shard", text, "i/n with i from 1 to n")
    return part, parts


def conduct(
    base: Config, settings: Mapping[str, Changes], seeds: Sequence[int], shard: tuple[int, int]
) -> int:
    """Trains the runs of a shard that are not finished, and writes `results.csv` of all runs.

    A run that fails is marked in the table, and the others go on.

    Args:
      base: the config that all settings change; its `workdir` is the folder of the sweep.
      settings: by name, what a setting changes in the base.
      seeds: of every setting.
      shard: number of the shard, from 1, and number of all shards.

    Returns:
      The number of runs that failed.

    Raises:
      UserError: an impossible setting or a folder that cannot be used; nothing was trained.
    """
    configs = run_configs(base, settings, seeds)
    runs = [(name, config) for name, of_setting in configs.items() for config in of_setting]
    if not any(os.path.exists(Path(config.workdir, CONFIG)) for _, config in runs):
        refuse_idle(config for _, config in runs)
    for _, config in runs:
        check(config)
    try:
        Path(base.workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise flag_error("workdir", base.workdir, "a writable folder", reason=str(error)) from error
    failures = 0
    number, shards = shard
    mine = runs[number - 1 :: shards]
    for i, (name, config) in enumerate(mine, 1):
        title = f"{i}/{len(mine)} {name}, seed {config.seed}"
        summary = finished(config)
        if summary is None:
            print(f"{title}: training", flush=True)
            Path(config.workdir, _FAILED).unlink(missing_ok=True)
            try:
                summary = train_setting(config)
            except BusyError:
                print(f"{title}: another process trains it", flush=True)
            except (UserError, RuntimeError) as error:  # JAX raises the latter without memory
                failures += 1
                _note_failure(config, error)
                print(f"{title}: failed: {one_line(str(error))}", flush=True)
            jax.clear_caches()  # programs that other runs share are in --compilation_cache
        if summary is not None:
            print(f"{title}: {tested(summary)}", flush=True)
        write_results(base, runs)
    return failures


def _note_failure(config: Config, error: Exception) -> None:
    """Writes why a run failed into its folder, where other shards read it for the table."""
    folder = Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _FAILED, one_line(str(error)))


def _state(config: Config, summary: Any) -> str:
    """The entry of the column `state`."""
    note = Path(config.workdir, _FAILED)
    if summary:
        return "finished"
    return f"failed: {note.read_text(errors='replace')}" if note.exists() else "not finished"


def write_results(base: Config, runs: Sequence[tuple[str, Config]]) -> None:
    """Writes `results.csv` with a row for every run of every shard, finished or not.

    `made_by.md` beside it names the command, and commits and versions.

    Args:
      base: the config that all settings change.
      runs: name of the setting and config of each run.
    """
    buffer = io.StringIO()
    varied = sorted({f for _, c in runs for f in _differing(base, c)} - set(_FIXED))
    summaries = [finished(config) for _, config in runs]
    tasks = tasks_of(summaries)
    metrics = dict.fromkeys(name for task in tasks for name in _metric_entries(task))
    columns = [
        "setting", "seed", *varied, "state", "rounds_done", *metrics,
        *_TO_TARGET, *(f"{stream}_bytes" for stream in STREAMS), *_CLOCK, "host_seconds", "folder",
    ]  # fmt: skip
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for (name, config), summary in zip(runs, summaries, strict=True):
        values = {flag: shown(getattr(config, flag)) for flag in varied}
        folder = Path(config.workdir).relative_to(base.workdir)
        row = {"setting": name, "seed": config.seed, **values, "folder": folder}
        writer.writerow(
            {**row, "state": _state(config, summary), **(_numbers(summary) if summary else {})}
        )
    write_atomically(Path(base.workdir, RESULTS), buffer.getvalue())
    write_atomically(Path(base.workdir, MADE_BY), made_by(summaries) + "\n")


def _differing(base: Config, config: Config) -> list[str]:
    """Names of the flags in which a config differs from the base."""
    fields = [field.name for field in dataclasses.fields(Config)]
    return [name for name in fields if getattr(base, name) != getattr(config, name)]


def _metric_entries(task: TaskRecord) -> tuple[str, ...]:
    """Entries of a summary that are columns, such as `final_accuracy`.

    Those of the test set follow, which are others where runs are judged on a validation set.
    """
    own, test = ((t.columns[0], t.columns[2]) for t in (task, task._replace(split="test")))
    return *map(TaskRecord.final, own), task.best_entry, *map(TaskRecord.final, test)


def _numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the columns that a summary has."""
    clock = summary["simulated"] or {}
    entries = (*_metric_entries(read_record(summary)), *_TO_TARGET, "host_seconds")
    return {
        "rounds_done": summary["rounds"],
        **{name: summary.get(name) for name in entries},
        **{f"{stream}_bytes": summary["bytes"][stream] for stream in STREAMS},
        **{name: clock.get(name) for name in _CLOCK},
    }
