"""Locks between processes, where the system and its file systems have them."""

import sys
from pathlib import Path

try:
    import fcntl
except ImportError:
    _HERE = False  # on Windows
else:
    _HERE = True


def lock(descriptor: int, wait: bool = False) -> bool:
    """Locks an open file or folder until it is closed; whether there are locks.

    Args:
      descriptor: of the file.
      wait: for another process that has it.

    Raises:
      BlockingIOError: another process has it, and this one does not wait.
    """
    if not _HERE:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # of a file system without locks, or one without them for folders
        return False
    return True


def warn(path: Path) -> None:
    """Says that nothing keeps others out of a folder."""
    text = f"note: {path}: no locks on this file system; let nothing else write to this folder"
    print(text, file=sys.stderr, flush=True)
