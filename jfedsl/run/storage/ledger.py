"""Append-only text files of a run, which cannot change unseen.

A checkpoint holds the seal of each, with a copy, so that a resumed run finds its file as it was, or
puts it back. A seal beside the file is for all other readers.
"""

import base64
import os
import warnings
import zlib
from pathlib import Path

from jfedsl.errors import UserError
from jfedsl.files.seals import Seal, beside, content, found_beside, matches, put_beside, seal
from jfedsl.run.storage.workdir import write_atomically

_PUT_BACK = "put the file back, or resume the run, which does so from its checkpoint"
_MOST_COPIED = 2**23  # bytes: some 40,000 rounds; every checkpoint holds the copy, compressed


class Ledger:
    """One such file, open to append to."""

    def __init__(self, path: Path, start: str, sealed: Seal | None) -> None:
        """Opens the file; what is in it past the seal, whole or torn, is cut off.

        Args:
          path: of the file.
          start: what a new file starts with.
          sealed: seal of the file at the checkpoint to go on from; None starts a new one.

        Raises:
          UserError: the file is not as it was, and the checkpoint has no copy of it.
        """
        self._path = path
        self._data = bytearray(start.encode() if sealed is None else _sealed_part(path, sealed))
        put_beside(self._path, self._data)  # first: what a kill leaves past the seal is no damage
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
        put_beside(self._path, self._data)

    def seal(self) -> Seal:
        """Of all there is now, for a checkpoint."""
        copied = self._data if len(self._data) <= _MOST_COPIED else b""
        return {**seal(self._data), "copy": base64.b64encode(zlib.compress(copied)).decode()}


def read(path: Path) -> str:
    """The text of such a file, up to its last line end: a torn last line is none.

    Raises:
      UserError: it is not as it was written, or no text, or gone though its seal is there.
    """
    sealed = found_beside(path)
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
    """Whether there is such a file, or there was one."""
    return path.exists() or beside(path).exists()


def _sealed_part(path: Path, sealed: Seal) -> bytes:
    """The part of a file that a checkpoint vouches for, or the checkpoint's copy of it."""
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
