"""Data sets in npz, csv and parquet files, of the true formats."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from jfedsl.data.arrays import ArrayError
from jfedsl.data.files import load

X = np.random.default_rng(0).normal(size=(40, 3))
NAMES = np.array(["yes", "no"])[np.arange(40) % 2]
SPLIT = np.where(np.arange(40) < 32, "train", "test")
OWNERS = np.arange(40) % 4 + 7
COLUMNS = {"a": X[:, 0], "b": X[:, 1], "client": OWNERS, "label": NAMES, "c": X[:, 2]}


def write(folder: Path, kind: str, **columns: Any) -> Path:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **columns)
    else:
        table = pa.table(columns)
        (csv.write_csv if kind == "csv" else parquet.write_table)(table, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
def test_all_formats_hold_the_same_examples(tmp_path: Path, kind: str) -> None:
    columns = dict(COLUMNS)
    if kind == "npz":
        columns = {"features": X, "label": NAMES, "client": OWNERS}
    data = load(write(tmp_path, kind, **columns, split=SPLIT))
    np.testing.assert_allclose(data.train.images, X[:32], rtol=1e-6)
    np.testing.assert_allclose(data.test.images, X[32:], rtol=1e-6)
    assert data.class_names == ("no", "yes") and data.normalise
    np.testing.assert_array_equal(data.train.labels, np.arange(1, 33) % 2)
    np.testing.assert_array_equal(data.train.owners, np.arange(32) % 4)


def test_without_marks_a_tenth_is_for_testing(tmp_path: Path) -> None:
    data = load(write(tmp_path, "csv", **COLUMNS))
    assert (len(data.train.labels), len(data.test.labels)) == (36, 4)


@pytest.mark.parametrize(
    ("features", "dtype", "normalise"),
    [
        (np.zeros((40, 20, 6)), np.float32, True),  # time series
        (np.arange(400).reshape(40, 10), np.int32, False),  # tokens
        (np.zeros((40, 8, 8, 3), np.uint8), np.uint8, True),  # images
    ],
)
def test_time_series_tokens_and_images(
    tmp_path: Path, features: np.ndarray, dtype: Any, normalise: bool
) -> None:
    data = load(write(tmp_path, "npz", features=features, label=NAMES))
    assert data.train.images.dtype == dtype and data.normalise == normalise
    assert data.train.images.shape == (36, *features.shape[1:])
    assert data.integer_inputs == (dtype == np.int32)
    assert [note[:29] for note in data.notes] == ["inputs: whole numbers are left"[:29]] * (
        not normalise
    )


def test_a_column_of_lists_is_features_of_more_axes(tmp_path: Path) -> None:
    tokens = np.arange(160).reshape(40, 2, 2)
    data = load(write(tmp_path, "parquet", tokens=tokens.tolist(), label=NAMES, split=SPLIT))
    np.testing.assert_array_equal(data.train.images, tokens[:32])
    assert data.integer_inputs


def test_whole_numbers_in_columns_are_normalised_and_categories_are_text(tmp_path: Path) -> None:
    label = pa.array(NAMES.tolist()).dictionary_encode()
    data = load(write(tmp_path, "parquet", age=np.arange(40), old=np.arange(40) > 20, label=label))
    assert data.normalise and data.train.images.dtype == np.float32
    assert data.class_names == ("no", "yes")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_texts_makes_a_text_data_set(tmp_path: Path, kind: str) -> None:
    texts = np.array([f"{n}" if n % 2 else f'line {n}\nnext, "line"' for n in range(40)])
    data = load(write(tmp_path, kind, text=texts, label=NAMES, client=OWNERS, split=SPLIT))
    assert data.of_texts and data.notes == () and data.class_names == ("no", "yes")
    np.testing.assert_array_equal(data.train.images, texts[:32])
    np.testing.assert_array_equal(data.train.owners, np.arange(32) % 4)


def replaced(name: str, row: int, value: Any) -> dict[str, list[Any]]:
    columns = {key: list(map(str, column)) for key, column in COLUMNS.items()}
    columns[name][row] = value
    return columns


@pytest.mark.parametrize(
    ("kind", "columns", "text"),
    [
        ("csv", replaced("b", 5, None), "^1 missing value in row 6 of column b; fill them in or l"),
        ("csv", replaced("label", 3, None), "^1 missing value in row 4 of column label"),
        ("csv", replaced("b", 5, "x y"), r"^column b: numbers are allowed, not 'x y' \(string\) i"),
        ("csv", {"a": X[:, 0]}, "^a column label is needed; the columns are a$"),
        ("csv", {"label": NAMES}, "^a column of features is needed"),
        ("parquet", {"a": [[1.0]] * 39 + [[1.0, 2.0]], "label": NAMES}, "not of 1 to 2 entries"),
        ("parquet", {"a": [None, *X[1:, 0]], "label": NAMES}, "missing value in row 1 of column a"),
        (
            "csv",
            {"a": X[:, 0], "text": NAMES, "label": NAMES},
            "^with a column text, only .* not a;",
        ),
        ("parquet", {"text": OWNERS, "label": NAMES}, "column text: texts are allowed, not int64"),
        ("npz", {"features": X}, "arrays features, label, client, split are allowed; there is no"),
        ("npz", {"features": X, "label": NAMES, "x": X}, "are allowed; not x"),
        ("npz", {"features": X, "label": NAMES.astype(object)}, "label: an array of Python object"),
        ("npz", {"features": X.astype(str), "label": NAMES}, "train inputs: real numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, kind: str, columns: Any, text: str) -> None:
    path = write(tmp_path, kind, **columns)
    with pytest.raises(ArrayError, match=text):
        load(path)


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "x.parquet", "missing.csv", "x.txt"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_bytes(b"\0\1 no,table\n1\n" * 20)
    text = "there is no such file" if "miss" in name else "cannot be read: |is allowed, not x.txt"
    with pytest.raises(ArrayError, match=text):
        load(path)


def test_large_csv_files_are_not_read_in_a_python_loop(tmp_path: Path) -> None:
    rows = 200_000
    columns = {"a": np.arange(rows) / 7, "b": np.arange(rows), "label": NAMES.repeat(rows // 40)}
    path = write(tmp_path, "csv", **columns)
    began = time.process_time()
    data = load(path)
    assert len(data.train.labels) == rows * 9 // 10
    assert time.process_time() - began < 5  # measured: under 1 s
