"""The published files of image sets: downloaded, given by the user, or of a package of Debian.

Checksums are verified. They are those that TensorFlow Datasets (TFDS) has registered.
"""

import hashlib
import http.client
import os
import struct
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from jfedsl.errors import UserError, line_of
from jfedsl.files.paths import UNFINISHED, clear_unfinished
from jfedsl.terminal import download_bar

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_TIMEOUT = 10.0  # seconds that a server may be silent


class RawFile(NamedTuple):
    """A published file of a data set, as TFDS has registered it.

    Attributes:
      name: of the file.
      url: where it is downloaded from.
      sha256: checksum in hexadecimal digits.
    """

    name: str
    url: str
    sha256: str


def raw_files(name: str) -> list[RawFile]:
    """The published files of the set `name`."""
    from jfedsl.data.builders import BUILDERS

    infos = BUILDERS[name].url_infos
    return [RawFile(info.filename, url, info.checksum) for url, info in infos.items()]


def check_given(name: str, folder: Path) -> None:
    """Raises UserError unless `folder` holds every published file of the set, undamaged."""
    files = raw_files(name)
    for file in files:
        path = folder / file.name
        if not path.is_file():
            names = ", ".join(f.name for f in files)
            raise UserError(
                f"--manual_dir={folder} has no file {file.name} (from {file.url}); "
                f"it must be a folder with {names}"
            )
        if not _is_whole(path, file):
            raise UserError(
                f"{path}: damaged, cut short or another file: its SHA-256 is not {file.sha256}; "
                f"get it again from {file.url}"
            )


def _is_whole(path: Path, file: RawFile) -> bool:
    """Whether the file at `path` has the registered checksum."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {line_of(error)}") from error


def download(name: str, folder: Path) -> None:
    """Downloads into `folder` the published files that are missing there or damaged."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {line_of(error)}") from error
    clear_unfinished(folder)
    for file in raw_files(name):
        path = folder / file.name
        if path.is_file() and _is_whole(path, file):
            continue
        try:
            with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as temporary:
                part = Path(temporary) / file.name
                _fetch(file.url, part)
                if not _is_whole(part, file):
                    raise UserError(_offline(name, file, "what came is damaged or another file"))
                os.replace(part, path)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(_offline(name, file, line_of(error))) from error


def _offline(name: str, file: RawFile, reason: str) -> str:
    """The error for a file that cannot be downloaded: the reason, and what to do instead."""
    names = ", ".join(f.name for f in raw_files(name))
    debian = ", or add --debian" if name == "fashion_mnist" else ""
    return (
        f"{file.url}: not downloaded: {reason}; "
        f"else put {names} in a folder and add --manual_dir=FOLDER{debian}"
    )


def _fetch(url: str, path: Path) -> None:
    """Downloads `url` to `path`, with a progress bar on a terminal.

    The download of TFDS has no timeout and retries for minutes without a network.
    """
    try:
        connection = urllib.request.urlopen(url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # the error keeps the connection open
        raise
    with connection as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length", 0)) or None
        with download_bar(path.name, total) as advance:
            while block := response.read(1 << 20):
                file.write(block)
                advance(len(block))


def restore_debian(folder: Path, source: Path = DEBIAN_FOLDER) -> None:
    """Restores the published files of Fashion-MNIST from Debian's package into `folder`.

    The package dataset-fashion-mnist strips name and time from the gzip header (RFC 1952), so that
    checksums differ from the registered ones.

    Args:
      folder: where the files are written.
      source: folder of the package's files.

    Raises:
      UserError: the package is not installed or has other files, or `folder` cannot be written.
    """
    for file in raw_files("fashion_mnist"):
        path = source / file.name
        try:
            stripped = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: {line_of(error)}; install Debian's package: "
                "apt-get install dataset-fashion-mnist"
            ) from error
        restored = folder / file.name
        try:
            restored.write_bytes(_original_header(file.name) + stripped[10:])
        except OSError as error:
            raise UserError(f"{restored}: not written: {line_of(error)}") from error
        if not _is_whole(restored, file):
            raise UserError(
                f"{path}: damaged, or another version than the one known; install Debian's "
                "package anew: apt-get install --reinstall dataset-fashion-mnist"
            )


def _original_header(name: str) -> bytes:
    """The gzip header that the authors of Fashion-MNIST published: with file name and time."""
    seconds = 1504176606 if name.startswith("train-") else 1504176627
    fixed = struct.pack("<4BI2B", 0x1F, 0x8B, 8, 8, seconds, 0, 3)
    return fixed + name.removesuffix(".gz").encode() + b"\0"
