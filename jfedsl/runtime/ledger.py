"""Append-only text files of a run, which cannot change unseen.

A seal is a file's length and checksum. A checkpoint holds one, with a copy, so that a resumed run
finds its file as it was, or puts it back. A hidden file beside holds another for all other readers.
"""

import base64
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jfedsl.errors import UserError
from jfedsl.runtime.signed import signed, verified
from jfedsl.runtime.workdir import write_atomically

Seal = Mapping[str, Any]
_BOM = b"\xef\xbb\xbf"  # editors add it
_PUT_BACK = "put the file back, or resume the run, which does so from its checkpoint"
_MOST_COPIED = 2**23  # bytes: some 40,000 rounds; every checkpoint holds the copy, compressed


class Ledger:
    """One such file, open to append to."""

    def __init__(self, path: Path, start: str, seal: Seal | None) -> None:
        """Opens the file; what is in it past the seal, whole or torn, is cut off.

        Args:
          path: of the file.
          start: what a new file starts with.
          seal: of the file at the checkpoint to go on from; None starts a new one.

        Raises:
          UserError: the file is not as it was, and the checkpoint has no copy of it.
        """
        self._path = path
        self._data = bytearray(start.encode() if seal is None else _sealed_part(path, seal))
        self._seal_beside()  # first: what a kill leaves past the seal is no damage
        write_atomically(path, self.text)

    @property
    def text(self) -> str:
        """All of it."""
        return self._data.decode()

    def append(self, text: str) -> None:
        """Adds to it; that is on the disk when this returns."""
        with open(self._path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._data += text.encode()
        self._seal_beside()

    def seal(self) -> Seal:
        """Of all there is now, for a checkpoint."""
        copied = self._data if len(self._data) <= _MOST_COPIED else b""
        return {**_seal(self._data), "copy": base64.b64encode(zlib.compress(copied)).decode()}

    def _seal_beside(self) -> None:
        # Not waited for: a seal that is lost or late says less, never something wrong.
        beside = _beside(self._path)
        part = beside.with_suffix(".tmp")
        part.write_text(json.dumps(signed(_seal(self._data))))
        part.replace(beside)


def read(path: Path) -> str:
    """The text of such a file, up to its last line end: a torn last line is none.

    Raises:
      UserError: it is not as it was written, or no text, or gone though its seal is there.
    """
    seal = _seal_of(path)
    try:
        data = path.read_bytes().removeprefix(_BOM)
        if seal is None or _matches(data, seal):
            return data[: data.rfind(b"\n") + 1].decode()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {_PUT_BACK}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; {_PUT_BACK}") from error
    raise UserError(f"{path} was damaged or changed after the run wrote it; {_PUT_BACK}")


def exists(path: Path) -> bool:
    """Whether there is such a file, or there was one."""
    return path.exists() or _beside(path).exists()


def _sealed_part(path: Path, seal: Seal) -> bytes:
    """The part of a file that a checkpoint vouches for, or the checkpoint's copy of it."""
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise UserError(f"{path}: {error}") from error
    if _matches(data, seal):
        return data[: seal["bytes"]]
    copy = zlib.decompress(base64.b64decode(seal["copy"]))
    if not _matches(copy, seal):
        raise UserError(f"{path} was damaged or changed after the run wrote it; put the file back")
    warnings.warn(f"{path} was damaged or changed; put back from the checkpoint", stacklevel=5)
    return copy


def _seal(data: bytes | bytearray) -> dict[str, int]:
    return {"bytes": len(data), "sum": zlib.crc32(data)}


def _matches(data: bytes, seal: Seal) -> bool:
    return len(data) >= seal["bytes"] and zlib.crc32(data[: seal["bytes"]]) == seal["sum"]


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.seal")


def _seal_of(path: Path) -> Seal | None:
    """The seal beside a file; None without a readable one."""
    try:
        found = verified(json.loads(_beside(path).read_bytes()))
        return found if isinstance(found.get("bytes"), int) and "sum" in found else None
    except (OSError, ValueError):
        return None
