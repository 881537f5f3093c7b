"""Folders of `save_to_disk`; without the extra, a line that says what to install."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from jfedsl.data.arrays import ArrayError
from jfedsl.data.hugging_face import load

has_extra = importlib.util.find_spec("datasets") is not None
needs_extra = pytest.mark.skipif(not has_extra, reason="the extra hf is not installed")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4, 3), np.uint8)
LABELS = np.arange(30) % 3


@needs_extra
def test_images_with_class_names_in_two_splits(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    kinds = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    features = datasets.Features(kinds)

    def split(rows: slice) -> datasets.Dataset:
        pictures = [Image.fromarray(image) for image in IMAGES[rows]]
        columns = {"picture": pictures, "label": LABELS[rows].tolist()}
        return datasets.Dataset.from_dict(columns, features)

    splits = {"train": split(slice(0, 24)), "test": split(slice(24, 30))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    data = load(tmp_path / "saved")
    np.testing.assert_array_equal(data.train.images, IMAGES[:24])
    np.testing.assert_array_equal(data.test.images, IMAGES[24:])
    np.testing.assert_array_equal(data.test.labels, LABELS[24:])
    assert data.class_names == ("a", "b", "c")


@needs_extra
def test_tokens_and_clients_in_one_split(tmp_path: Path) -> None:
    import datasets

    tokens, clients = np.arange(60).reshape(30, 2), [f"user {n % 2}" for n in range(30)]
    columns = {"input_ids": tokens.tolist(), "label": LABELS.tolist(), "client": clients}
    rows = datasets.Dataset.from_dict(columns).select(range(29, -1, -1))
    rows.save_to_disk(str(tmp_path / "saved"))
    data = load(tmp_path / "saved")
    assert data.integer_inputs and len(data.test.labels) == 4
    np.testing.assert_array_equal(data.train.labels, data.train.images[:, 0] // 2 % 3)
    np.testing.assert_array_equal(data.train.owners, data.train.images[:, 0] // 2 % 2)


@needs_extra
def test_texts_in_one_split(tmp_path: Path) -> None:
    import datasets

    texts = [f"text {n}" for n in range(30)]
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    columns = {"text": texts, "label": LABELS.tolist()}
    saved = datasets.Dataset.from_dict(columns, datasets.Features(kinds))
    saved.save_to_disk(str(tmp_path / "saved"))
    data = load(tmp_path / "saved")
    assert data.of_texts and data.class_names == ("a", "b", "c")
    assert sorted([*data.train.images, *data.test.images]) == sorted(texts)


@needs_extra
def test_a_folder_of_something_else_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="there is no such folder"):
        load(tmp_path / "none")
    with pytest.raises(ArrayError, match="no folder of save_to_disk: "):
        load(tmp_path)


def test_without_the_extra_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArrayError, match=r"pip install 'jfedsl\[hf\]'"):
        load(tmp_path)
