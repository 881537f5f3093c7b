"""Seals: the length and checksum of a file, kept in a checkpoint or hidden beside the file."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jfedsl.files.signed import parsed, signed, verified

Seal = Mapping[str, Any]
_BOM = b"\xef\xbb\xbf"  # editors add it


def seal(data: bytes | bytearray) -> dict[str, Any]:
    """The seal of a file's bytes."""
    return {"bytes": len(data), "sum": zlib.crc32(data)}


def matches(data: bytes, sealed: Seal) -> bool:
    """Whether the first bytes of a file are those of a seal."""
    return len(data) >= sealed["bytes"] and zlib.crc32(data[: sealed["bytes"]]) == sealed["sum"]


def content(path: Path) -> bytes:
    """The bytes of a file, without the mark that editors add.

    Raises:
      OSError: it cannot be read.
    """
    return path.read_bytes().removeprefix(_BOM)


def beside(path: Path) -> Path:
    """Where the seal of a file is kept."""
    return path.with_name(f".{path.name}.seal")


def put_beside(path: Path, data: bytes | bytearray) -> None:
    """Writes the seal of a file; not waited for: one that is lost says nothing wrong."""
    part = beside(path).with_suffix(".tmp")
    part.write_text(json.dumps(signed(seal(data))))
    part.replace(beside(path))


def found_beside(path: Path) -> Seal | None:
    """The seal beside a file; None without one that can be read."""
    try:
        found = verified(parsed(beside(path).read_bytes()))
    except (OSError, ValueError):
        return None
    return found if found.keys() == {"bytes", "sum"} else None
