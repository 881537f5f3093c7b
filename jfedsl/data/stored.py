"""Images of prepared sets, on disk until they are needed."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

_PIECE = 2048  # images read at once


class StoredImages:
    """Images uint8 `[N, H, W, C]` of a prepared split on disk; indexing reads and decodes rows.

    Attributes:
      shape: `(N, H, W, C)`.
    """

    def __init__(self, source: Any, positions: np.ndarray) -> None:
        """The images at `positions[N]` of a TFDS data source."""
        self._source, self._positions = source, positions
        self.shape = (len(positions), *source.dataset_info.features["image"].shape)

    def at(self, positions: np.ndarray) -> "StoredImages":
        """The images at `positions` of the present ones, still on disk."""
        return StoredImages(self._source, self._positions[positions])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows by a number or a slice, or by a tuple that starts with one."""
        positions = self._positions[rows[0] if isinstance(rows, tuple) else rows]
        examples = self._source.__getitems__(np.atleast_1d(positions).tolist())
        images = decode([example["image"] for example in examples])
        return images.reshape(*np.shape(positions), *self.shape[1:])


def decode(files: Sequence[bytes]) -> np.ndarray:
    """The images of image files, uint8 `[N, ...]`; Pillow takes half the time of TFDS."""
    from PIL import Image  # not needed for the default data set

    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def read(source: Any, lazily: bool) -> tuple[np.ndarray | StoredImages, np.ndarray]:
    """Images `[N, H, W, C]` and labels int32 `[N]` of a TFDS data source.

    Images are decoded now or, if `lazily`, when they are indexed.
    """
    images, labels = [], []
    for first in range(0, len(source), _PIECE):
        examples = source.__getitems__(range(first, min(first + _PIECE, len(source))))
        labels += [example["label"] for example in examples]
        if not lazily:
            images.append(decode([example["image"] for example in examples]))
    all_labels = np.array(labels, np.int32)
    if lazily:
        return StoredImages(source, np.arange(len(source))), all_labels
    shape = source.dataset_info.features["image"].shape
    return np.concatenate(images).reshape(-1, *shape), all_labels
