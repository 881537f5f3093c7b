"""fingerprint.json, which tells whether a run's data and plugins are as they were."""

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
from jfedsl.run.storage.workdir import write_atomically

FINGERPRINT = "fingerprint.json"


def changes(folder: Path, now: Fingerprint) -> list[str]:
    """What is not as it was when the run in a folder began; nothing where that is not known.

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


def plugins_changed(folder: Path, now: Mapping[str, str]) -> bool:
    """Whether plugins are not those of the run in a folder, by checksums, as far as is known."""
    try:
        then = verified(json.loads((folder / FINGERPRINT).read_bytes()))["plugins"]
        return bool(plugin_differences(then, now))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


@contextlib.contextmanager
def hold(config: Config, now: Fingerprint) -> Iterator[Path]:
    """`workdir.hold`, of a folder whose run had the same data and plugins, or is new.

    Raises:
      UserError: of `workdir.hold`, or of `keep`.
    """
    with workdir.hold(config) as folder:
        keep(folder, now)
        yield folder


def keep(folder: Path, now: Fingerprint) -> None:
    """Writes the fingerprint of a run that begins; compares that of one that goes on.

    Raises:
      UserError: data or a plugin are not as they were; nothing has been changed.
    """
    checkpoint = kept.newest(folder)
    if (folder / FINGERPRINT).exists() or checkpoint is None or not checkpoint["data"]:
        found = changes(folder, now)
    else:  # the file is gone
        found = differences(checkpoint["data"], now)
    if found:
        raise UserError(
            f"{folder}: this run cannot go on: {'; '.join(found)}. Put it back as it was, or start "
            f"a new run (--init_from={folder} takes the weights of this one)"
        )
    if not (folder / FINGERPRINT).exists():
        write_atomically(folder / FINGERPRINT, json.dumps(signed(now), indent=1) + "\n")


def agree(own: Fingerprint) -> None:
    """Checks that all processes of a run found the same data and plugins.

    Raises:
      UserError: in all of them, if one differs from the first.
    """
    every = [json.loads(text) for text in distributed.texts(json.dumps(own))]
    for process, other in enumerate(every):
        found = differences(every[0], other)
        if found:
            what = "; ".join(found).replace("when the run began", "in process 0")
            raise UserError(f"process {process} has other data than process 0: {what}")
