"""Sets of images in the files of TensorFlow Datasets; decoded once for all runs of a process."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfedsl.data.stored import StoredImages, read

_Split = tuple[np.ndarray | StoredImages, np.ndarray]


class ImageFiles(NamedTuple):
    """A set of images.

    Attributes:
      train: images `[N, H, W, C]` and labels int32 `[N]`.
      test: the same of the test set.
      classes: number of classes.
    """

    train: _Split
    test: _Split
    classes: int


def read_lazily(name: str, folder: Path) -> ImageFiles:
    """A set whose training images stay on disk until they are indexed."""
    return _read(name, folder, lazily=True)


def read_once(name: str, folder: Path) -> ImageFiles:
    """A set in memory, read-only. It is kept for the next run: to decode it takes seconds."""
    written = [(file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    return _in_memory(name, folder, tuple(written))


@lru_cache(maxsize=1)
def _in_memory(name: str, folder: Path, written: tuple[tuple[str, int], ...]) -> ImageFiles:
    """The set of a folder whose files were written then; files of another time are read anew."""
    del written  # part of the key alone
    files = _read(name, folder, lazily=False)
    for array in (*files.train, *files.test):
        assert isinstance(array, np.ndarray)
        array.setflags(write=False)
    return files


def _read(name: str, folder: Path, lazily: bool) -> ImageFiles:
    import tensorflow_datasets as tfds  # takes seconds

    train, test = tfds.data_source(
        name,
        split=["train", "test"],
        data_dir=folder.parents[1],
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    classes = train.dataset_info.features["label"].num_classes
    return ImageFiles(read(train, lazily), read(test, False), classes)
