"""The plain values of the newest checkpoint, read without Orbax."""

import re
from pathlib import Path
from typing import Any

from jfedsl.files.signed import CRC, parsed, verified

CHECKPOINTS = "checkpoints"
CUTS = "cuts of clients"  # in a checkpoint of a run that chooses them anew: of each client
VERSION = 6  # of the layout of a checkpoint
_FILE = "counters/metadata"  # where Orbax puts the JSON beside the arrays


def steps(folder: Path) -> list[int]:
    """Rounds with a folder in the folder of checkpoints, by Orbax's names: plain numbers."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)]


def newest(workdir: Path) -> dict[str, Any] | None:
    """The plain values of the newest checkpoint in which they can be read; None without one.

    Args:
      workdir: folder of the run.
    """
    folder = workdir / CHECKPOINTS
    for step in sorted(steps(folder), reverse=True):
        try:
            saved = parsed((folder / str(step) / _FILE).read_bytes())
            content = verified(saved)
        except (OSError, ValueError):
            continue
        if CRC in saved and content.get("version") == VERSION:
            return content
    return None
