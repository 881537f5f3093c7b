"""Data sets by name, from a file, from a folder of Hugging Face, or prepared by TFDS."""

import os
from pathlib import Path

from jfedsl.data import datasets
from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import Dataset
from jfedsl.errors import UserError
from jfedsl.files.paths import local

FORMS = ("file:PATH", "hf:PATH", "tfds:NAME")  # beside the names of `DATASETS`


def absolute(name: str) -> str:
    """The same data set, a path made absolute, so that it is found from every folder.

    >>> absolute("digits"), absolute("tfds:kmnist"), absolute("file:/data/../data/x.npz")
    ('digits', 'tfds:kmnist', 'file:/data/x.npz')
    """
    form, colon, rest = name.partition(":")
    if f"{form}:PATH" not in FORMS or not rest:
        return name
    return form + colon + os.path.abspath(local("dataset", rest))


def title(name: str) -> str:
    """A short name for titles and folders: of a path its last part.

    >>> title("file:/data/x.npz"), title("tfds:plant/small"), title("digits")
    ('x.npz', 'small', 'digits')
    """
    return name.rpartition(":")[2].rpartition(os.sep)[2]


def load(name: str, data_dir: str, lazily: bool = False) -> Dataset:
    """Loads a set.

    Args:
      name: a key of `DATASETS`, or one of `FORMS`.
      data_dir: folder of prepared sets, in which a file or folder that has moved is looked for.
      lazily: whether training images of the sets of `preparation.IMAGE_SETS` stay on disk.

    Raises:
      UserError: the set cannot be read or used; the text says why.
    """
    form, _, rest = name.partition(":")
    if name in datasets.DATASETS or not rest:
        return datasets.load(name, data_dir, lazily)
    try:
        if form == "tfds":
            from jfedsl.data import prepared

            return prepared.load(rest, local("data_dir", data_dir))
        path = _place(Path(rest), local("data_dir", data_dir))
        if form == "file":
            from jfedsl.data import files

            return files.load(path)
        from jfedsl.data import hugging_face

        return hugging_face.load(path)
    except (ArrayError, OSError) as error:
        raise UserError(f"--dataset={name}: {error}") from error


def _place(path: Path, data_dir: Path) -> Path:
    """Where a file or folder is: where it was, or else in the folder of data sets."""
    moved = data_dir / path.name
    return moved if moved.exists() and not path.exists() else path
