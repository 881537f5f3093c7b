"""What the newest checkpoint says of its run in plain values, read without Orbax."""

import json
from pathlib import Path
from typing import Any

from jfedsl.runtime.signed import CRC, verified

CHECKPOINTS = "checkpoints"
VERSION = 3  # of how a checkpoint is laid out
_FILE = "counters/metadata"  # what Orbax calls the JSON beside the arrays


def newest(workdir: Path) -> dict[str, Any] | None:
    """The plain values of the newest checkpoint whose own can be read; None without one."""
    folder = workdir / CHECKPOINTS
    steps = [step for step in folder.iterdir() if step.name.isdigit()] if folder.is_dir() else []
    for step in sorted(steps, key=lambda step: int(step.name), reverse=True):
        try:
            found = json.loads((step / _FILE).read_bytes())
            content = verified(found)
        except (OSError, ValueError, RecursionError):
            continue
        if CRC in found and content.get("version") == VERSION:
            return content
    return None
