"""The folder of a run: one run at a time, one config for ever."""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jfedsl.config import Config, compressors, shown
from jfedsl.config.canonical import recorded
from jfedsl.errors import BusyError, UserError, flag_error
from jfedsl.files import seals
from jfedsl.files.locks import lock, warn
from jfedsl.files.paths import Name, local
from jfedsl.files.signed import parsed, signed, verified
from jfedsl.run.storage import kept

CONFIG, SUMMARY, LOCK = "config.json", "summary.json", ".lock"
_Parse = Callable[[str, Name], Config]


def read_config(
    workdir: Name, plugin: Name = "", parse: _Parse = Config.from_json
) -> Config | None:
    """The config of the run in a folder; None if there is no run.

    Without one that can be read, it is the copy in the newest checkpoint.

    Args:
      workdir: of the run.
      plugin: where its plugins are now, as far as they are not where they were.
      parse: makes a config of the text in the file and `plugin`.

    Raises:
      UserError: there is none that can be read, or it is not that of the checkpoint.
    """
    workdir = local("workdir", workdir)
    path, checkpoint = workdir / CONFIG, kept.newest(workdir)
    found = None
    try:
        found = _own(path, plugin, parse) if path.exists() else None
    except UserError as error:
        if checkpoint is None or isinstance(error.__cause__, OSError):
            raise
    if checkpoint is None:
        return found
    if found is None:
        copy = parse(checkpoint["config"], plugin)
        text = f"{path} is damaged, changed or gone; going by the checkpoint's copy"
        warnings.warn(text, stacklevel=1)  # said once, however often it is read
        return copy
    # No plugin that the checkpoint names is run: it may be another's.
    differing = differences(recorded(checkpoint["config"]), found)
    if differing:
        raise UserError(
            f"{path} and the newest checkpoint are of different runs; differing: "
            f"{', '.join(differing)}; take the wrong one out of the folder"
        )
    return found


def _own(path: Path, plugin: Name, parse: _Parse) -> Config:
    """The config in a file, as the run wrote it."""
    sealed = seals.found_beside(path)
    with contextlib.suppress(OSError):  # which is said below
        if sealed is not None and seals.seal(seals.content(path)) != sealed:
            raise UserError(f"{path} was damaged or changed after the run wrote it; put it back")
    return read_settings(path, plugin, parse)


def read_settings(path: Path, plugin: Name = "", parse: _Parse = Config.from_json) -> Config:
    """The config in a file, as `read_config`.

    Args:
      path: of the file.
      plugin: where its plugins are now, as far as they are not where they were.
      parse: makes a config of the text in the file and `plugin`.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8-sig"), plugin)
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def differences(old: Config, new: Config) -> list[str]:
    """Fields that differ and may not change when a run is resumed, as `name (old -> new)`.

    Logging may change; so may the number of rounds, unless the learning rate depends on it, and how
    the same compressors are asked for.
    """
    free = {
        field.name for field in dataclasses.fields(Config) if field.metadata["may_change_on_resume"]
    }
    if new.learning_rate_schedule == "constant":
        free.add("rounds")
    if old.pruning == new.pruning:
        free.add("prune_kind")
    # Texts first: of compressors that no table has there is nothing else.
    if old.expressions == new.expressions or old.compressors == new.compressors:
        free |= {*compressors.flags(), "quantizer", "bucket_size"}
    pairs = {f.name: (getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old)}
    return [
        f"{name} ({shown(before)} -> {shown(after)})"
        for name, (before, after) in pairs.items()
        if before != after and name not in free
    ]


def check(config: Config, flag: str = "workdir") -> None:
    """Refuses a folder that this config may not use; touches nothing.

    Args:
      config: of the run.
      flag: that named the folder, for errors.

    Raises:
      UserError: the folder holds a run of another config, or something that is no run.
    """
    if not config.workdir:
        return
    path = Path(config.workdir)
    try:
        _check(config, path, flag)
    except OSError as error:
        raise flag_error(flag, path, "a folder to read and write", reason=str(error)) from error


def _check(config: Config, path: Path, flag: str) -> None:
    if path.exists() and not path.is_dir():
        raise flag_error(flag, path, "a folder", reason="this is a file")
    old = read_config(path, config.plugin)
    if old is not None:
        differing = differences(old, config)
        if differing:
            allowed, reason = "the folder of a run of the same settings", ", ".join(differing)
            raise flag_error(flag, path, allowed, reason=f"differing: {reason}")
    elif path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise flag_error(flag, path, "a new or empty folder or that of an earlier run")


@contextlib.contextmanager
def hold(config: Config) -> Iterator[Path]:
    """Makes the folder if need be and holds it while the block runs; a new one gets its config.

    Raises:
      BusyError: another run holds it.
      UserError: `check` refuses it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = Path(config.workdir).absolute() if config.workdir else _dated(config)
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
        except BlockingIOError:
            allowed = "a folder that no other run is using"
            raise BusyError(str(flag_error("workdir", path, allowed))) from None
        except OSError as error:
            raise flag_error(
                "workdir", config.workdir, "a writable folder", reason=str(error)
            ) from error
        check(config)  # again, now that nobody else can change it
        if not (path / CONFIG).exists():
            record(config, path)
        yield path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks a folder while the block runs, or says that there are no locks.

    The folder itself, as a lock on a file is gone from the path when the file is deleted; and a
    file in it, as NFS has no locks on folders.

    Raises:
      BlockingIOError: another run has it.
      OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path / LOCK, "a"))
        found = lock(file.fileno())
        with contextlib.suppress(PermissionError):  # Windows opens no folders
            folder = os.open(path, os.O_RDONLY)
            stack.callback(os.close, folder)
            found |= lock(folder)
        if not found:
            warn(path)
        yield


def record(config: Config, path: Path) -> None:
    """Writes the config of a run into its folder."""
    text = config.to_json() + "\n"
    seals.beside(path / CONFIG).unlink(missing_ok=True)  # a kill leaves none, not a wrong one
    write_atomically(path / CONFIG, text)
    seals.put_beside(path / CONFIG, text.encode())


def _dated(config: Config) -> Path:
    """A new folder under runs/, named by date, time, data set and model."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{stamp}_{config.dataset}_{config.model}"
    for attempt in range(1, 1000):
        path = Path("runs", name if attempt == 1 else f"{name}_{attempt}").absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise OSError(f"too many runs named {name}")


def write_summary(workdir: Path, summary: Mapping[str, Any]) -> None:
    """Writes the summary of a finished run into its folder."""
    write_atomically(workdir / SUMMARY, json.dumps(signed(summary), indent=2) + "\n")


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """The summary of the run in a folder; None without a whole one: training writes it anew."""
    try:
        text = (workdir / SUMMARY).read_text(encoding="utf-8-sig")
        return verified(parsed(text))
    except (OSError, ValueError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader, or a kill, meets the old or the new one, whole."""
    # Other processes, on other machines, may write the same file.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
