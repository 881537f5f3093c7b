"""Data sets that the library `datasets` of Hugging Face saved in a folder."""

from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.data import tables
from jfedsl.data.arrays import ArrayError
from jfedsl.data.columns import Columns, dataset_of
from jfedsl.data.datasets import Dataset
from jfedsl.errors import one_line

_LONGEST_REASON = 150  # characters


def load(folder: Path) -> Dataset:
    """The data set in a folder of `save_to_disk`, with splits train and test or with one split.

    Args:
      folder: of a set with a column `label`, and features as images, in one column of lists, in
        columns of numbers, or as texts in a column `text`; `client` is optional, and so is `split`
        in a set of one split.

    Raises:
      ArrayError: the extra is missing, or the folder cannot be read or used.
    """
    try:
        import datasets
    except ImportError as error:
        raise ArrayError("the package datasets is needed: pip install 'jfedsl[hf]'") from error
    if not folder.is_dir():
        raise ArrayError("there is no such folder")
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of fsspec, Arrow and the library itself
        reason = one_line(str(error), _LONGEST_REASON)
        raise ArrayError(f"no folder of save_to_disk: {reason}") from error
    if not isinstance(saved, dict):
        return dataset_of(*_examples(saved))
    lacking = [name for name in ("train", "test") if name not in saved]
    if lacking:
        names = ", ".join(saved)
        raise ArrayError(f"splits train and test are needed, or a set of one split, not {names}")
    (train, _), (test, _) = _examples(saved["train"]), _examples(saved["test"])
    return dataset_of(train, test)


def _examples(split: Any) -> tuple[Columns, Columns | None]:
    import datasets

    features = split.features
    names = getattr(features.get("label"), "names", None)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(images) > 1:
        raise ArrayError(f"one column of images is allowed, not {', '.join(images)}")
    if not images:
        return tables.of_table(split.with_format("arrow")[:], names)
    others = split.select_columns([n for n in ("label", "client", "split") if n in features])
    numbers = np.arange(len(split))  # in place of the images, so that the rest is read as a table
    table = others.with_format("arrow")[:].append_column("position", [numbers])
    train, test = tables.of_table(table, names)
    return _with_images(train, split[images[0]]), test and _with_images(test, split[images[0]])


def _with_images(columns: Columns, images: Any) -> Columns:
    """The columns with the images at their positions, uint8 `[N, H, W, C]`."""
    arrays = [np.asarray(images[int(n)]) for n in columns.features[:, 0]]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ArrayError(f"images of one size are allowed, not {shapes[0]} and {shapes[1]}")
    stacked = np.stack(arrays)
    return columns._replace(features=stacked[..., None] if stacked.ndim == 3 else stacked)
