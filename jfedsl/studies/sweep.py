"""A grid of settings and seeds: the runs in it, trained one after another, one row each."""

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
from jfedsl.run.storage.workdir import CONFIG, check, write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.study import RESULTS, Changes, runs

_FAILED = ".failed"  # hidden: a folder with nothing else may still become a run's
# Of a run, or of all of them, not of a setting.
_OWN = ("workdir", "plugin", "seed")
_NUMBERS = (
    "final_accuracy", "final_accuracy_deployed", "best_accuracy", "rounds_to_target",
    "bytes_to_target",
)  # fmt: skip
_CLOCK = ("seconds", "seconds_to_target", "energy_joules", "joules_to_target")
COLUMNS = (
    "setting", "seed", "state", "rounds_done", *_NUMBERS,
    *(f"{stream}_bytes" for stream in STREAMS), *_CLOCK, "host_seconds", "folder",
)  # fmt: skip


def grid(base: Config, cases: Sequence[str], varied: Sequence[str]) -> dict[str, Changes]:
    """What each setting of a grid changes, by its name.

    Args:
      base: of all settings.
      cases: named settings, each `NAME: --flag=value ...`; none is one without a name.
      varied: flags with the values to combine with each other and the cases, each
        `flag=value value ...`.

    Raises:
      UserError: a flag that there is not, one that is set twice, an empty list, a value that is
        not allowed or means nothing, or two settings that are one.
    """
    named = [_case(text) for text in cases] or [("", [])]
    axes = [_axis(text) for text in varied]
    for _, arguments in named:
        twice = [name for name, _ in axes] + [_flag_of(argument) for argument in arguments]
        again = next((name for name in twice if twice.count(name) > 1), None)
        if again is not None:
            raise UserError(f"--{again} is set twice; set it once, in --vary or in --case")
    found: dict[str, Changes] = {}
    known: dict[tuple[Any, ...], str] = {}
    pairs = [[f"{name}={value}" for value in values] for name, values in axes]
    for (case, arguments), values in product(named, list(product(*pairs))):
        name = ", ".join([*([case] if case else []), *values]) or "base"
        if name in found:
            raise UserError(f"two settings of the grid are named {as_text(name)}")
        config = _config(base, name, [*arguments, *(f"--{value}" for value in values)])
        first = known.setdefault(tuple(canonical(config).items()), name)
        if first != name:
            raise UserError(f"two settings of the grid are the same: {first} and {name}")
        found[name] = {flag: getattr(config, flag) for flag in _differing(base, config)}
    return found


def _case(text: str) -> tuple[str, list[str]]:
    name, colon, rest = text.partition(":")
    arguments = rest.split()
    if not colon or not name.strip() or not all(a.startswith("--") for a in arguments):
        raise flag_error("case", text, "of the form NAME: --flag=value ...")
    for argument in arguments:
        _known("case", _flag_of(argument))
    return name.strip(), arguments


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, rest = text.partition("=")
    values = rest.split()
    if not equals or not values or len(set(values)) < len(values):
        raise flag_error("vary", text, "of the form flag=value value ..., each value once")
    return _known("vary", name.strip().removeprefix("--")), values


def _flag_of(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]


def _known(flag: str, name: str) -> str:
    names = [f.name for f in dataclasses.fields(Config) if f.name not in _OWN]
    if name not in names:
        reason = "set seeds by --seeds" if name == "seed" else ""
        raise flag_error(flag, name, "a flag of a run", names, reason)
    return name


def _config(base: Config, name: str, arguments: Sequence[str]) -> Config:
    values = flags.FlagValues()
    define_flags(values)
    for field in dataclasses.fields(Config):
        values[field.name].value = getattr(base, field.name)
    try:
        values(["sweep", *arguments])
        config = from_flags(values)
        reasons = idle(config)
        for argument in arguments:
            if _flag_of(argument) in reasons:
                flag = _flag_of(argument)
                raise no_effect(flag, argument.partition("=")[2], reasons[flag])
    except (flags.Error, UserError) as error:
        raise UserError(f"setting {as_text(name)!r}: {error}") from None
    return config


def shard_of(text: str) -> tuple[int, int]:
    """Which part of the runs, of how many, from `i/n` with i from 1 to n.

    >>> shard_of("2/3")
    (2, 3)

    Raises:
      UserError: something else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise flag_error("shard", text, "i/n with i from 1 to n")
    return part, parts


def conduct(
    base: Config, settings: Mapping[str, Changes], seeds: Sequence[int], shard: tuple[int, int]
) -> int:
    """Trains the runs of a shard that are not finished; `results.csv` has a row for every run.

    A run that fails is named there, and the others go on.

    Args:
      base: of all runs; its `workdir` is the folder of the sweep.
      settings: what each changes, by its name.
      seeds: of the runs of each setting.
      shard: which part of the runs, of how many.

    Returns:
      How many of its runs failed.

    Raises:
      UserError: settings or folders that cannot be; nothing has been trained.
    """
    every = runs(base, settings, seeds)
    order = [(name, config) for name, configs in every.items() for config in configs]
    if not any(os.path.exists(Path(config.workdir, CONFIG)) for _, config in order):
        refuse_idle(config for _, config in order)
    for _, config in order:
        check(config)
    try:
        Path(base.workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise flag_error("workdir", base.workdir, "a writable folder", reason=str(error)) from error
    failures = 0
    part, parts = shard
    mine = order[part - 1 :: parts]
    for number, (name, config) in enumerate(mine, 1):
        what = f"{number}/{len(mine)} {name}, seed {config.seed}"
        summary = finished(config)
        if summary is None:
            print(f"{what}: training", flush=True)
            Path(config.workdir, _FAILED).unlink(missing_ok=True)
            try:
                summary = train_setting(config)
            except BusyError:
                print(f"{what}: another process trains it", flush=True)
            except (UserError, RuntimeError) as error:  # of JAX too, such as too little memory
                failures += 1
                _note_failure(config, error)
                print(f"{what}: failed: {one_line(str(error))}", flush=True)
            jax.clear_caches()  # what other runs can use is in --compilation_cache
        if summary is not None:
            print(f"{what}: test accuracy {summary['final_accuracy']:.4f}", flush=True)
        write_results(base, order)
    return failures


def _note_failure(config: Config, error: Exception) -> None:
    """Leaves why a run failed in its folder, for the rows that other shards write."""
    folder = Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _FAILED, one_line(str(error)))


def _state(config: Config, summary: Any) -> str:
    note = Path(config.workdir, _FAILED)
    if summary:
        return "finished"
    return f"failed: {note.read_text(errors='replace')}" if note.exists() else "not finished"


def write_results(base: Config, order: Sequence[tuple[str, Config]]) -> None:
    """Writes `results.csv`, a row for every run, finished here or by another shard, or not.

    Args:
      base: as in `conduct`.
      order: names of settings with their runs.
    """
    buffer = io.StringIO()
    flagged = sorted({f for _, c in order for f in _differing(base, c)} - set(_OWN))
    writer = csv.DictWriter(buffer, [*COLUMNS[:2], *flagged, *COLUMNS[2:]], lineterminator="\n")
    writer.writeheader()
    for name, config in order:
        own = {flag: shown(getattr(config, flag)) for flag in flagged}
        where = Path(config.workdir).relative_to(base.workdir)
        row = {"setting": name, "seed": config.seed, **own, "folder": where}
        summary = finished(config)
        writer.writerow(
            {**row, "state": _state(config, summary), **(_numbers(summary) if summary else {})}
        )
    write_atomically(Path(base.workdir, RESULTS), buffer.getvalue())


def _differing(base: Config, config: Config) -> list[str]:
    fields = [field.name for field in dataclasses.fields(Config)]
    return [name for name in fields if getattr(base, name) != getattr(config, name)]


def _numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    clock = summary["simulated"] or {}
    return {
        "rounds_done": summary["rounds"],
        **{name: summary.get(name) for name in (*_NUMBERS, "host_seconds")},
        **{f"{stream}_bytes": summary["bytes"][stream] for stream in STREAMS},
        **{name: clock.get(name) for name in _CLOCK},
    }
