"""Preparation of image sets with TensorFlow Datasets (TFDS), without TensorFlow.

Checksums are verified. TFDS writes into a temporary folder and renames it at the end, so that a
failed or killed preparation never looks like a prepared set; the next one removes its leftovers.
"""

import contextlib
import hashlib
import http.client
import io
import os
import shlex
import shutil
import struct
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jfedsl.errors import UserError, flag_error, one_line
from jfedsl.files.locks import lock, warn
from jfedsl.files.paths import Name, local
from jfedsl.files.program import other_program
from jfedsl.terminal import download_bar

NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100")
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


def prepared_folder(name: str, data_dir: Name) -> Path:
    """The folder of the prepared set `name` in `data_dir`, which need not exist."""
    from jfedsl.data.builders import BUILDERS

    return local("data_dir", data_dir) / name / str(BUILDERS[name].VERSION)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a set in the format that can be read without TensorFlow."""
    return (folder / "dataset_info.json").is_file() and any(folder.glob("*.array_record*"))


def command(name: str, data_dir: Name) -> str:
    """The command that prepares the set `name` in `data_dir`."""
    program = other_program("prepare_data")
    return shlex.join([*program, f"--dataset={name}", f"--data_dir={data_dir}"])


def prepare(name: str, data_dir: Name, manual_dir: Name | None = None) -> Path:
    """Prepares the set `name` in `data_dir`, unless it is already there.

    Args:
      name: one of `NAMES`.
      data_dir: folder of prepared sets; downloaded files are kept in its folder `downloads`.
      manual_dir: folder of the published files; None to download them.

    Returns:
      The folder of the prepared set.

    Raises:
      UserError: names the file or folder that is wrong, and what to do.
    """
    if name not in NAMES:
        raise flag_error("dataset", name, f"one of {', '.join(NAMES)}", NAMES)
    data_dir, folder = local("data_dir", data_dir), prepared_folder(name, data_dir)
    if is_prepared(folder):
        return folder
    raw = data_dir / "downloads" / name
    if manual_dir is not None:
        raw = local("manual_dir", manual_dir)
        _check_manual(name, raw)
    with _locked(name, data_dir):
        if is_prepared(folder):  # by another process in the meantime
            return folder
        if folder.exists():
            raise UserError(
                f"{folder}: incomplete, or not in array_record format; delete this folder and run "
                "the same again, or choose another --data_dir"
            )
        if manual_dir is None:
            _download(name, raw)
        _clear(folder.parent)
        try:
            _build(name, data_dir, raw)
        except (OSError, RuntimeError) as error:  # of array_record on a full disk, RuntimeError
            raise UserError(f"{folder}: not prepared: {_line(error)}") from error
    return folder


@contextlib.contextmanager
def _locked(name: str, data_dir: Path) -> Iterator[None]:
    """Holds the lock of a set inside the block; waits while another process has it.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = open(data_dir / f".{name}.lock", "a")
    except OSError as error:
        raise flag_error("data_dir", data_dir, "a writable folder", reason=_line(error)) from error
    with file:
        try:
            has_locks = lock(file.fileno())
        except BlockingIOError:
            print(f"{name} is being prepared by another process; waiting", file=sys.stderr)
            has_locks = lock(file.fileno(), wait=True)
        if not has_locks:
            warn(data_dir)
        yield


def _clear(folder: Path) -> None:
    """Removes the unfinished folders that a killed preparation left."""
    for leftover in folder.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _build(name: str, data_dir: Path, raw: Path) -> None:
    """Writes the prepared set from the published files in `raw`."""
    import tensorflow_datasets as tfds

    from jfedsl.data.builders import BUILDERS

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = BUILDERS[name](data_dir=data_dir, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints unknown sizes
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=raw, force_checksums_validation=True, try_download_gcs=False
            )
        )


def _check_manual(name: str, folder: Path) -> None:
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
        raise UserError(f"{path}: cannot be read: {_line(error)}") from error


def _download(name: str, folder: Path) -> None:
    """Downloads into `folder` the published files that are missing there or damaged."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {_line(error)}") from error
    _clear(folder)
    for file in raw_files(name):
        path = folder / file.name
        if path.is_file() and _is_whole(path, file):
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="incomplete.", dir=folder) as temporary:
                part = Path(temporary) / file.name
                _fetch(file.url, part)
                if not _is_whole(part, file):
                    raise UserError(_offline(name, file, "what came is damaged or another file"))
                os.replace(part, path)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(_offline(name, file, _line(error))) from error


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
                f"{path}: {_line(error)}; install Debian's package: "
                "apt-get install dataset-fashion-mnist"
            ) from error
        restored = folder / file.name
        try:
            restored.write_bytes(_original_header(file.name) + stripped[10:])
        except OSError as error:
            raise UserError(f"{restored}: not written: {_line(error)}") from error
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


def _line(error: Exception) -> str:
    """The text of an error on one line, or its type if it has no text."""
    return one_line(str(error)) or type(error).__name__
