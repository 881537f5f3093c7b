"""Any image classification set of TensorFlow Datasets (TFDS) that is prepared on disk."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.data.arrays import ArrayError
from jfedsl.data.columns import Columns, dataset_of
from jfedsl.data.datasets import Dataset
from jfedsl.data.preparation import is_prepared
from jfedsl.data.stored import decode
from jfedsl.errors import one_line

_PIECE = 2048  # images read at once
_LONGEST_REASON = 150  # characters


def load(name: str, data_dir: Path) -> Dataset:
    """The newest version of a prepared set, read without TensorFlow.

    Args:
      name: NAME or NAME/CONFIG, as TFDS has it.
      data_dir: folder of prepared sets.

    Raises:
      ArrayError: the set is not prepared in array_record format, and the text has the command; or
        it is damaged or has no images with classes.
    """
    folder = _folder(name, data_dir)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        image, label = _keys(builder.info.features)
        test = next((s for s in ("test", "validation") if s in builder.info.splits), None)
        if "train" not in builder.info.splits:
            splits = ", ".join(builder.info.splits)
            raise ArrayError(f"a split train is needed; the splits are {splits}")
        names = builder.info.features[label].names
        skip = {image: tfds.decode.SkipDecoding()}
        columns = [
            _columns(builder.as_data_source(split, decoders=skip), image, label, names)
            for split in ("train", test)
            if split is not None
        ]
    except ArrayError:
        raise
    except Exception as error:  # array_record, protobuf, Pillow and TFDS raise types of their own
        reason = one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        raise ArrayError(f"{folder} cannot be read: {reason}") from error
    return dataset_of(columns[0], columns[1] if test else None)


def command(name: str, data_dir: Path) -> str:
    """The command of TFDS, which needs TensorFlow for most sets, that prepares a set."""
    folder = shlex.quote(str(data_dir))
    return f"tfds build {shlex.quote(name)} --data_dir={folder} --file_format=array_record"


def _folder(name: str, data_dir: Path) -> Path:
    """The folder of the newest prepared version."""
    if not re.fullmatch(r"\w+(/[\w.-]+)?", name):
        raise ArrayError("NAME or NAME/CONFIG is allowed")
    base = data_dir / name
    folders = [f for f in base.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", f.name)]
    prepared = [folder for folder in folders if is_prepared(folder)]
    if prepared:
        return max(prepared, key=lambda folder: tuple(map(int, folder.name.split("."))))
    configs = sorted({f"{name}/{f.parent.name}" for f in base.glob("*/*") if is_prepared(f)})
    if configs:
        raise ArrayError(f"one of its configurations is needed: {', '.join(configs)}")
    needs = "pip install tensorflow; "
    why = "other formats need TensorFlow" if folders else f"not prepared in {data_dir}"
    raise ArrayError(f"{why}; run: {needs}{command(name, data_dir)}")


def _keys(features: Any) -> tuple[str, str]:
    """The names of the one image and of the one class of an example."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    names_by_kind = [[n for n, kind in kinds.items() if kind == k] for k in ("Image", "ClassLabel")]
    if any(len(names) != 1 for names in names_by_kind):
        given = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ArrayError(f"one Image and one ClassLabel are needed; the features are {given}")
    return names_by_kind[0][0], names_by_kind[1][0]


def _columns(source: Any, image: str, label: str, names: list[str]) -> Columns:
    images, labels = [], []
    for first in range(0, len(source), _PIECE):
        examples = source.__getitems__(range(first, min(first + _PIECE, len(source))))
        labels += [example[label] for example in examples]
        images.append(decode([example[image] for example in examples]))
    if len({piece.shape[1:] for piece in images}) > 1:
        raise ArrayError("images of one size are allowed")
    features = np.concatenate(images)
    features = features[..., None] if features.ndim == 3 else features
    return Columns(features, np.array(labels, np.int32), None, names)
