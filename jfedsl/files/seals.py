"""Seals: the length and checksum of a file, kept in a checkpoint or in a hidden file beside it.

With its seal a file is known to be as it was written, except for what was added at its end.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jfedsl.files.signed import parsed, signed, verified

Seal = Mapping[str, Any]  # {"bytes": length, "sum": CRC-32}
_BOM = b"\xef\xbb\xbf"  # byte order mark, which some editors add


def seal(data: bytes | bytearray) -> dict[str, Any]:
    """The seal of a file with the content `data`."""
    return {"bytes": len(data), "sum": zlib.crc32(data)}


def matches(data: bytes, sealed: Seal) -> bool:
    """Whether a file begins with the content that was sealed."""
    return len(data) >= sealed["bytes"] and zlib.crc32(data[: sealed["bytes"]]) == sealed["sum"]


def content(path: Path) -> bytes:
    """The bytes of a file, without a byte order mark.

    Raises:
      OSError: the file cannot be read.
    """
    return path.read_bytes().removeprefix(_BOM)


def beside(path: Path) -> Path:
    """The path of the hidden file with the seal of `path`."""
    return path.with_name(f".{path.name}.seal")


def put_beside(path: Path, data: bytes | bytearray) -> None:
    """Writes the seal of a file whose content is `data`.

    The write is not synchronised to disk: a lost seal is treated as no seal.
    """
    temporary = beside(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(signed(seal(data))))
    temporary.replace(beside(path))


def seal_beside(path: Path) -> Seal | None:
    """The seal beside a file; None if there is none that can be read."""
    try:
        content = verified(parsed(beside(path).read_bytes()))
    except (OSError, ValueError):
        return None
    return content if content.keys() == {"bytes", "sum"} else None
