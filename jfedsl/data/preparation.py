"""Preparation of data sets: what a machine downloads or has is written once, and read by every run.

Image sets are made of their published files, with TensorFlow Datasets (TFDS) but without
TensorFlow; the packages of Debian are made of the lists of apt. A set is written into a temporary
folder that is renamed at the end, so that a failed or killed preparation never looks like a
prepared set; the next one removes its leftovers.
"""

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jfedsl.data import published
from jfedsl.data.text import apt_lists, debian
from jfedsl.errors import UserError, flag_error, line_of
from jfedsl.files.locks import lock, warn
from jfedsl.files.paths import Name, clear_unfinished, local
from jfedsl.files.program import other_program

IMAGE_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
NAMES = (*IMAGE_SETS, debian.NAME)


class Recipe(NamedTuple):
    """How a set is prepared.

    Attributes:
      version: of the set by its name, the last part of the name of its folder.
      place: folder of the machine with the raw files; None where they are downloaded.
      check: `(name, raw)` raises UserError unless the folder `raw` has the raw files.
      build: `(name, folder, raw)` writes the prepared set into `folder` from the files in `raw`.
    """

    version: Callable[[str], str]
    place: Path | None
    check: Callable[[str, Path], None]
    build: Callable[[str, Path, Path], None]


def prepared_folder(name: str, data_dir: Name) -> Path:
    """The folder of the prepared set `name` in `data_dir`, which need not exist."""
    return local("data_dir", data_dir) / name / _RECIPES[name].version(name)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a set in a format that is read without TensorFlow."""
    images = (folder / "dataset_info.json").is_file() and any(folder.glob("*.array_record*"))
    return images or (folder / debian.FILE).is_file()


def command(name: str, data_dir: Name) -> str:
    """The command that prepares the set `name` in `data_dir`."""
    program = other_program("prepare_data")
    return shlex.join([*program, f"--dataset={name}", f"--data_dir={data_dir}"])


def prepare(name: str, data_dir: Name, manual_dir: Name | None = None) -> Path:
    """Prepares the set `name` in `data_dir`, unless it is already there.

    Args:
      name: one of `NAMES`.
      data_dir: folder of prepared sets; downloaded files are kept in its folder `downloads`.
      manual_dir: folder of the raw files; None to download them or, of the packages of Debian, for
        the lists that apt has on this machine.

    Returns:
      The folder of the prepared set.

    Raises:
      UserError: names the file or folder that is wrong, and what to do.
    """
    if name not in NAMES:
        raise flag_error("dataset", name, f"one of {', '.join(NAMES)}", NAMES)
    data_dir, folder, recipe = (
        local("data_dir", data_dir),
        prepared_folder(name, data_dir),
        _RECIPES[name],
    )
    if is_prepared(folder):
        return folder
    raw = recipe.place if manual_dir is None else local("manual_dir", manual_dir)
    if raw is not None:
        recipe.check(name, raw)
    with _locked(name, data_dir):
        if is_prepared(folder):  # by another process in the meantime
            return folder
        if folder.exists():
            raise UserError(
                f"{folder}: incomplete, or in another format; delete this folder and run the same "
                "again, or choose another --data_dir"
            )
        if raw is None:
            raw = data_dir / "downloads" / name
            published.download(name, raw)
        clear_unfinished(folder.parent)
        try:
            recipe.build(name, folder, raw)
        except (OSError, RuntimeError) as error:  # of array_record on a full disk, RuntimeError
            raise UserError(f"{folder}: not prepared: {line_of(error)}") from error
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
        allowed, reason = "a writable folder", line_of(error)
        raise flag_error("data_dir", data_dir, allowed, reason=reason) from error
    with file:
        try:
            has_locks = lock(file.fileno())
        except BlockingIOError:
            print(f"{name} is being prepared by another process; waiting", file=sys.stderr)
            has_locks = lock(file.fileno(), wait=True)
        if not has_locks:
            warn(data_dir)
        yield


def _registered_version(name: str) -> str:
    from jfedsl.data.builders import BUILDERS

    return str(BUILDERS[name].VERSION)


def _build_images(name: str, folder: Path, raw: Path) -> None:
    """Writes the prepared set from the published files in `raw`; TFDS renames the folder."""
    import tensorflow_datasets as tfds

    from jfedsl.data.builders import BUILDERS

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = BUILDERS[name](data_dir=folder.parents[1], file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints unknown sizes
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=raw, force_checksums_validation=True, try_download_gcs=False
            )
        )


_IMAGES = Recipe(_registered_version, None, published.check_given, _build_images)
_RECIPES = {
    **dict.fromkeys(IMAGE_SETS, _IMAGES),
    debian.NAME: Recipe(
        lambda _: debian.VERSION,
        apt_lists.FOLDER,
        lambda _, raw: apt_lists.check(raw),
        lambda _, folder, raw: debian.build(folder, raw),
    ),
}
