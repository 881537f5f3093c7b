"""The folder of a run: it belongs to one config, and one process group trains in it at a time."""

import contextlib
import dataclasses
import datetime
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jfedsl.config import Config, compressors, shown
from jfedsl.config.allowed import FROM_DATA
from jfedsl.config.canonical import recorded
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import BusyError, UserError, flag_error
from jfedsl.files import seals
from jfedsl.files.locks import lock, warn
from jfedsl.files.paths import Name, local, temporary
from jfedsl.files.signed import parsed, signed, verified
from jfedsl.run.storage import kept

CONFIG, SUMMARY, LOCK = "config.json", "summary.json", ".lock"
_Parse = Callable[[str, Name], Config]


def read_config(
    workdir: Name, plugin: Name = "", parse: _Parse = Config.from_json
) -> Config | None:
    """The config of the run in a folder; None if there is no run.

    If config.json cannot be read, it is the copy in the newest checkpoint.

    Args:
      workdir: folder of the run.
      plugin: its plugins that have moved.
      parse: makes a config of the text in the file, and of `plugin`.

    Raises:
      UserError: neither can be read, or they are of different runs.
    """
    workdir = local("workdir", workdir)
    path, checkpoint = workdir / CONFIG, kept.newest(workdir)
    config = None
    try:
        config = _read_sealed(path, plugin, parse) if path.exists() else None
    except UserError as error:
        if checkpoint is None or isinstance(error.__cause__, OSError):
            raise
    if checkpoint is None:
        return config
    if config is None:
        copy = parse(checkpoint["config"], plugin)
        text = f"{path} is damaged, changed or gone; going by the checkpoint's copy"
        warnings.warn(text, stacklevel=1)  # shown once, however often the config is read
        return copy
    # The plugins that the checkpoint names are not run: they may be anybody's.
    differing = differences(recorded(checkpoint["config"]), config)
    if differing:
        raise UserError(
            f"{path} and the newest checkpoint are of different runs; differing: "
            f"{', '.join(differing)}; take the wrong one out of the folder"
        )
    return config


def _read_sealed(path: Path, plugin: Name, parse: _Parse) -> Config:
    """The config in a file, if its seal shows no damage."""
    sealed = seals.seal_beside(path)
    with contextlib.suppress(OSError):  # read_settings reports it
        if sealed is not None and seals.seal(seals.content(path)) != sealed:
            raise UserError(f"{path} was damaged or changed after the run wrote it; put it back")
    return read_settings(path, plugin, parse)


def read_settings(path: Path, plugin: Name = "", parse: _Parse = Config.from_json) -> Config:
    """The config in a file.

    Args:
      path: of the file.
      plugin: its plugins that have moved.
      parse: makes a config of the text in the file, and of `plugin`.

    Raises:
      UserError: the file cannot be read, or holds no config.
    """
    try:
        return parse(path.read_text(encoding="utf-8-sig"), plugin)
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def differences(old: Config, new: Config) -> list[str]:
    """Fields that differ, and may not change on a resume, as `name (old -> new)`.

    The number of rounds may change unless the learning rate depends on it. Compressors and pruning
    may be written in another way.
    """
    free = {
        field.name for field in dataclasses.fields(Config) if field.metadata["may_change_on_resume"]
    }
    if new.learning_rate_schedule == "constant":
        free.add("rounds")
    if FROM_DATA in (old.clients, new.clients):  # the fingerprint tells whether they are others
        free.add("clients")
    if old.pruning == new.pruning:
        free.add("prune_kind")
    # Texts first: compressors that no table has cannot be compared in another way.
    if old.expressions == new.expressions or old.compressors == new.compressors:
        free |= {*compressors.flags(), "quantizer", "bucket_size"}
    pairs = {f.name: (getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old)}
    return [
        f"{name} ({shown(before)} -> {shown(after)})"
        for name, (before, after) in pairs.items()
        if before != after and name not in free
    ]


def check(config: Config, flag: str = "workdir") -> None:
    """Checks that this config may use its folder; changes nothing.

    Args:
      config: settings of the run.
      flag: name, for errors, of the flag that gave the folder.

    Raises:
      UserError: the folder holds a run of another config, or other files.
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
            allowed = "the folder of a run of the same settings"
            allowed += ", or a new folder" if flag == "workdir" else ""
            raise flag_error(flag, path, allowed, reason=f"differing: {', '.join(differing)}")
    elif path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise flag_error(flag, path, "a new or empty folder or that of an earlier run")


@contextlib.contextmanager
def hold(config: Config) -> Iterator[Path]:
    """A context that holds the folder of a run; a new folder is made and gets its config.

    Raises:
      BusyError: another process trains in the folder.
      UserError: `check` refuses the folder, or it cannot be written.
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
    """A context that locks a folder; prints a warning if the file system has no locks.

    Both the folder and a file in it are locked: the lock on a file is lost when the file is
    deleted, and NFS cannot lock folders.

    Raises:
      BlockingIOError: another process holds the lock.
      OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path / LOCK, "a"))
        locked = lock(file.fileno())
        with contextlib.suppress(PermissionError):  # Windows cannot open folders
            folder = os.open(path, os.O_RDONLY)
            stack.callback(os.close, folder)
            locked |= lock(folder)
        if not locked:
            warn(path)
        yield


def record(config: Config, path: Path) -> None:
    """Writes the config of a run into its folder."""
    text = config.to_json() + "\n"
    seals.beside(path / CONFIG).unlink(missing_ok=True)  # a kill leaves no seal, not a wrong one
    write_atomically(path / CONFIG, text)
    seals.put_beside(path / CONFIG, text.encode())


def _dated(config: Config) -> Path:
    """Makes a new folder under runs/, named by date, time, data set and model."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{stamp}_{title_of(config.dataset)}_{model_title(config)}"
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
    """The summary of the run in a folder; None if it is missing or damaged: training writes it."""
    try:
        text = (workdir / SUMMARY).read_text(encoding="utf-8-sig")
        return verified(parsed(text))
    except (OSError, ValueError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file; a reader, or a kill, finds the old text or the new one, whole."""
    part = temporary(path)
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
