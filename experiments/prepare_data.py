"""Prepares an image set for training, from a download, local files, or Debian's package."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
import shlex
import tempfile
from pathlib import Path

from absl import flags

from jfedsl.data.preparation import NAMES, prepare, restore_debian
from jfedsl.errors import flag_error, no_effect
from jfedsl.files.paths import local
from jfedsl.run.script import start

_DATASET = flags.DEFINE_string("dataset", "", f"Data set. Allowed: one of {', '.join(NAMES)}.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of prepared data sets.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder of the published files, used instead of a download."
)
_DEBIAN = flags.DEFINE_boolean(
    "debian",
    False,
    "Use the raw files of Debian's package dataset-fashion-mnist. Allowed: with "
    "--dataset=fashion_mnist.",
)


def main(_: list[str]) -> None:
    """Prepares the set and prints where it is and how to train on it."""
    name, data_dir = _DATASET.value, local("data_dir", _DATA_DIR.value)
    if _DEBIAN.value and name != "fashion_mnist":
        raise flag_error("dataset", name, "fashion_mnist with --debian")
    if _DEBIAN.value and _MANUAL_DIR.value is not None:
        raise no_effect("manual_dir", _MANUAL_DIR.value, "with --debian")
    if _DEBIAN.value:
        with tempfile.TemporaryDirectory() as raw:
            restore_debian(Path(raw))
            folder = prepare(name, data_dir, Path(raw))
    else:
        folder = prepare(name, data_dir, _MANUAL_DIR.value)
    print(f"{name} is prepared in {folder}")
    quoted = shlex.quote(str(data_dir))
    print(f"to train: python experiments/train.py --dataset={name} --data_dir={quoted}")


if __name__ == "__main__":
    start(main)
