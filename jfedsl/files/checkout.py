"""The commit of the package, where it lies in a git checkout."""

import os
import subprocess
from functools import cache
from pathlib import Path

_SECONDS = 30.0  # after which git is taken not to answer, as on a slow network file system


@cache
def commit() -> str | None:
    """The commit of this package when it was first asked for; see `commit_of`."""
    return commit_of(Path(__file__).parents[1])


def commit_of(folder: Path) -> str | None:
    """The commit of the git checkout that a folder belongs to.

    Args:
      folder: of a package.

    Returns:
      The full hash, with ` dirty` if files of the folder were changed, added or removed since; None
      if the folder is not tracked, as in an installed package, or git is missing.
    """
    if not _git(folder, "ls-files", "--error-unmatch", "."):
        return None
    head = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", ".")
    if not head or changes is None:
        return None
    return f"{head} dirty" if changes else head


def _git(folder: Path, *words: str) -> str | None:
    """What git prints in a folder; None if it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # other processes may use git there
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_SECONDS, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
