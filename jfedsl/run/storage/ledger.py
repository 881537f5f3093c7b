"""Ledgers: append-only text files of a run, in which every change is noticed.

A checkpoint has the seal of each ledger and a copy of it, from which a resumed run restores a
damaged file. Other readers check the seal beside the file.
"""

import base64
import os
import warnings
import zlib
from pathlib import Path

from jfedsl.errors import UserError
from jfedsl.files.seals import Seal, beside, content, matches, put_beside, seal, seal_beside
from jfedsl.run.storage.workdir import write_atomically

_PUT_BACK = "put the file back, or resume the run, which does so from its checkpoint"
_MOST_COPIED = 2**23  # bytes, of some 40,000 rounds; every checkpoint has a compressed copy


class Ledger:
    """A ledger that is open for appending."""

    def __init__(self, path: Path, start: str, sealed: Seal | None) -> None:
        """Opens the file, and cuts off what comes after the sealed part.

        Args:
          path: of the file.
          start: text that a new file starts with.
          sealed: seal in the checkpoint to resume from; None starts a new file.

        Raises:
          UserError: the file is damaged, and the checkpoint has no copy of it.
        """
        self._path = path
        self._data = bytearray(start.encode() if sealed is None else _sealed_part(path, sealed))
        put_beside(self._path, self._data)  # first: more text than is sealed is no damage
        write_atomically(path, self.text)

    @property
    def text(self) -> str:
        """The whole text."""
        return self._data.decode()

    def append(self, text: str) -> None:
        """Appends text, which is on disk when this returns."""
        with open(self._path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._data += text.encode()
        put_beside(self._path, self._data)

    def seal(self) -> Seal:
        """The seal of the whole text, for a checkpoint."""
        copied = self._data if len(self._data) <= _MOST_COPIED else b""
        return {**seal(self._data), "copy": base64.b64encode(zlib.compress(copied)).decode()}


def read(path: Path) -> str:
    """The text of a ledger, without a torn last line.

    Raises:
      UserError: the file is damaged, is not text, or is missing though its seal is there.
    """
    sealed = seal_beside(path)
    try:
        data = content(path)
        if sealed is None or matches(data, sealed):
            return data[: data.rfind(b"\n") + 1].decode()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {_PUT_BACK}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; {_PUT_BACK}") from error
    raise UserError(f"{path} was damaged or changed after the run wrote it; {_PUT_BACK}")


def exists(path: Path) -> bool:
    """Whether there is a ledger, or the seal of one."""
    return path.exists() or beside(path).exists()


def _sealed_part(path: Path, sealed: Seal) -> bytes:
    """The part of a file that a checkpoint's seal covers, or the checkpoint's copy of that part."""
    try:
        data = content(path)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise UserError(f"{path}: {error}") from error
    if matches(data, sealed):
        return data[: sealed["bytes"]]
    copy = zlib.decompress(base64.b64decode(sealed["copy"]))
    if not matches(copy, sealed):
        raise UserError(f"{path} was damaged or changed after the run wrote it; put the file back")
    warnings.warn(f"{path} was damaged or changed; put back from the checkpoint", stacklevel=5)
    return copy
