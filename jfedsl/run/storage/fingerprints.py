"""fingerprint.json, which shows whether a run's data and plugins have changed."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from jfedsl.config import Config
from jfedsl.data.fingerprint import Fingerprint, differences, plugin_differences
from jfedsl.errors import UserError
from jfedsl.files.signed import parsed, signed, verified
from jfedsl.run.processes import distributed
from jfedsl.run.storage import kept, workdir
from jfedsl.run.storage.task_record import CLASSIFICATION, TaskRecord, read_record
from jfedsl.run.storage.workdir import write_atomically

FINGERPRINT = "fingerprint.json"


def changes(folder: Path, now: Fingerprint) -> list[str]:
    """Changes since the run in a folder began, as text; an empty list if the file is missing.

    Raises:
      UserError: the file cannot be read.
    """
    path = folder / FINGERPRINT
    if not path.exists():
        return []
    try:
        return differences(verified(parsed(path.read_bytes())), now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); put it back, or delete it: "
            "checkpoints have copies"
        ) from error


def task_in(folder: Path) -> TaskRecord:
    """What the run in a folder is judged by; that of earlier builds if nothing readable says so."""
    try:
        return read_record(verified(parsed((folder / FINGERPRINT).read_bytes())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return CLASSIFICATION


def plugins_changed(folder: Path, now: Mapping[str, str]) -> bool:
    """Whether plugins differ from those of the run in a folder; False if the file is missing.

    Args:
      folder: of the run.
      now: checksums of the plugins by name.
    """
    try:
        then = verified(json.loads((folder / FINGERPRINT).read_bytes()))["plugins"]
        return bool(plugin_differences(then, now))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


@contextlib.contextmanager
def hold(config: Config, now: Fingerprint) -> Iterator[Path]:
    """As `workdir.hold`, for a new run, or one whose data and plugins have not changed.

    Raises:
      UserError: as `workdir.hold`, or as `keep`.
    """
    with workdir.hold(config) as folder:
        keep(folder, now)
        yield folder


def keep(folder: Path, now: Fingerprint) -> None:
    """Writes the fingerprint of a new run; compares that of a run that resumes.

    Raises:
      UserError: data or plugins have changed; no file has been changed.
    """
    checkpoint = kept.newest(folder)
    if (folder / FINGERPRINT).exists() or checkpoint is None or not checkpoint["data"]:
        changed = changes(folder, now)
    else:  # the file is missing
        changed = differences(checkpoint["data"], now)
    if changed:
        raise UserError(
            f"{folder}: this run cannot go on: {'; '.join(changed)}. Put it back as it was, or "
            f"start a new run (--init_from={folder} takes the weights of this one)"
        )
    if not (folder / FINGERPRINT).exists():
        write_atomically(folder / FINGERPRINT, json.dumps(signed(now), indent=1) + "\n")


def agree(here: Fingerprint) -> None:
    """Checks that all processes of a run have the same data and plugins.

    Args:
      here: fingerprint in this process.

    Raises:
      UserError: in all processes, if one differs from the first.
    """
    fingerprints = [json.loads(text) for text in distributed.texts(json.dumps(here))]
    for process, other in enumerate(fingerprints):
        differing = differences(fingerprints[0], other)
        if differing:
            what = "; ".join(differing).replace("when the run began", "in process 0")
            raise UserError(f"process {process} has other data than process 0: {what}")
