"""File locks between processes, on systems and file systems that support them."""

import sys
from pathlib import Path

try:
    import fcntl
except ImportError:
    _IS_SUPPORTED = False  # on Windows
else:
    _IS_SUPPORTED = True


def lock(descriptor: int, wait: bool = False) -> bool:
    """Locks an open file or folder until it is closed.

    Args:
      descriptor: file descriptor of the open file or folder.
      wait: whether to wait while another process has the lock.

    Returns:
      Whether the file system supports locks; if not, nothing is locked.

    Raises:
      BlockingIOError: another process has the lock, and `wait` is False.
    """
    if not _IS_SUPPORTED:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # the file system has no locks, or none for folders
        return False
    return True


def warn(path: Path) -> None:
    """Prints that the folder `path` cannot be locked."""
    text = f"note: {path}: no locks on this file system; let nothing else write to this folder"
    print(text, file=sys.stderr, flush=True)
