"""Prepares a data set for training, from a download, files of the machine or of your own.

jfedsl prepare-data --dataset=fashion_mnist
"""

import shlex
import tempfile
from pathlib import Path

from absl import flags

from jfedsl.data.preparation import NAMES, prepare
from jfedsl.data.published import restore_debian
from jfedsl.errors import flag_error, no_effect
from jfedsl.files.paths import local
from jfedsl.files.program import other_program
from jfedsl.run.script import start as start_program


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    flags.DEFINE_string("dataset", "", f"Data set. Allowed: one of {', '.join(NAMES)}.", values)
    flags.DEFINE_string("data_dir", "data", "Folder of prepared data sets.", values)
    flags.DEFINE_string(
        "manual_dir",
        None,
        "Folder of the published files, used instead of a download; of debian_packages, folder of "
        "the lists of apt. Default: those of this machine.",
        values,
    )
    flags.DEFINE_boolean(
        "debian",
        False,
        "Use the raw files of Debian's package dataset-fashion-mnist. Allowed: with "
        "--dataset=fashion_mnist.",
        flag_values=values,
    )


def main(given: flags.FlagValues) -> None:
    """Prepares the set and prints where it is and how to train on it."""
    name, data_dir = given.dataset, local("data_dir", given.data_dir)
    if given.debian and name != "fashion_mnist":
        raise flag_error("dataset", name, "fashion_mnist with --debian")
    if given.debian and given.manual_dir is not None:
        raise no_effect("manual_dir", given.manual_dir, "with --debian")
    if given.debian:
        with tempfile.TemporaryDirectory() as raw:
            restore_debian(Path(raw))
            folder = prepare(name, data_dir, Path(raw))
    else:
        folder = prepare(name, data_dir, given.manual_dir)
    print(f"{name} is prepared in {folder}")
    train = [*other_program("train"), f"--dataset={name}", f"--data_dir={data_dir}"]
    print(f"to train: {shlex.join(train)}")


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda _: main(flags.FLAGS), define=define, about=__doc__)
