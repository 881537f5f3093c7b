"""Paths of files and folders that a user names."""

import os
import platform
import re
import shutil
from pathlib import Path

from jfedsl.errors import UserError, close_to, flag_error

Name = str | os.PathLike[str]
UNFINISHED = "incomplete."  # begins the names of folders that are not complete yet

_LONGEST_NAME, _LONGEST_PATH = (
    255,
    3000,
)  # bytes; files in a run's folder have longer paths, up to 4096


def local(flag: str, folder: Name) -> Path:
    """The path on this machine that a name stands for; `~` is the user's home folder.

    Args:
      flag: name of the flag that was given, for errors.
      folder: name of a folder or file.

    Raises:
      UserError: the name is a URL, has an unknown home folder, or cannot be that of a file.
    """
    text = os.fspath(folder)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):  # pathlib turns two slashes into one
        raise flag_error(
            flag, text, "a folder on this machine or mounted there", reason="this is a URL"
        )
    try:
        path = Path(text).expanduser()
        parts = [part.encode() for part in path.parts]
    except RuntimeError:
        raise flag_error(flag, text, "a folder", reason="this home folder is unknown") from None
    except UnicodeEncodeError:
        raise flag_error(flag, text, "a path in UTF-8") from None
    if max(map(len, parts), default=0) > _LONGEST_NAME or sum(map(len, parts)) > _LONGEST_PATH:
        allowed = f"a path of names up to {_LONGEST_NAME} bytes, {_LONGEST_PATH} in all"
        raise flag_error(flag, text, allowed)
    if b"\0" in b"".join(parts):
        raise flag_error(flag, text, "a path without a zero byte")
    return path


def absolute_if_here(flag: str, name: Name) -> str:
    """The absolute path of a file or folder on this machine; any other text as it is.

    Args:
      flag: name of the flag that was given, for errors.
      name: of a file or folder, or else of something on the net.

    Raises:
      UserError: as `local`.
    """
    path = local(flag, name)
    return os.path.abspath(path) if os.fspath(name) and path.exists() else os.fspath(name)


def temporary(path: Path) -> Path:
    """A hidden name beside a file, to write under before the file is replaced.

    It is of this process: others, also on other machines, may write the same file.
    """
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")


def clear_unfinished(folder: Path) -> None:
    """Removes the folders `incomplete.*` that a killed program left in a folder."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def path_error(flag: str, path: Path, allowed: str, reason: str = "") -> UserError:
    """An error for a path that a flag cannot have, as `flag_error`.

    If the path does not exist, the error proposes a file or folder with a similar name.
    """
    try:
        names = [] if path.exists() else [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        names = []
    folder = "" if path.parent == Path() else f"{path.parent}{os.sep}"
    text = str(flag_error(flag, path, allowed, reason=reason))
    return UserError(f"{text}{close_to(path.name, names, folder)}")
