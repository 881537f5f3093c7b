"""What the newest checkpoint says of its run in plain values, read without Orbax."""

import re
from pathlib import Path
from typing import Any

from jfedsl.files.signed import CRC, parsed, verified

CHECKPOINTS = "checkpoints"
VERSION = 6  # of how a checkpoint is laid out
_FILE = "counters/metadata"  # what Orbax calls the JSON beside the arrays


def steps(folder: Path) -> list[int]:
    """Rounds that have a folder of their number, written as Orbax does."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)]


def newest(workdir: Path) -> dict[str, Any] | None:
    """The plain values of the newest checkpoint whose own can be read; None without one."""
    folder = workdir / CHECKPOINTS
    for step in sorted(steps(folder), reverse=True):
        try:
            found = parsed((folder / str(step) / _FILE).read_bytes())
            content = verified(found)
        except (OSError, ValueError):
            continue
        if CRC in found and content.get("version") == VERSION:
            return content
    return None
