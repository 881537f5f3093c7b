"""Data sets in one file: NumPy archives, csv and parquet."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jfedsl.data import tables
from jfedsl.data.arrays import ArrayError
from jfedsl.data.columns import Columns, by_marks, dataset_of
from jfedsl.data.datasets import Dataset
from jfedsl.errors import one_line

_ARRAYS = ("features", "label", "client", "split")
_NULLS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null"]
_LONGEST_REASON = 150  # characters

Examples = tuple[Columns, Columns | None]  # training examples; marked test examples


def load(path: Path) -> Dataset:
    """The data set in a file.

    Args:
      path: of an .npz file with arrays `features` and `label`, or of a .csv or .parquet file with a
        column `label` and features in all others, or texts in a column `text`. `client` and `split`
        are optional.

    Raises:
      ArrayError: the file cannot be read, or its examples cannot be used.
    """
    if path.suffix.lower() not in _READERS:
        raise ArrayError(f"a file {', '.join(_READERS)} is allowed, not {path.name}")
    try:
        examples = _READERS[path.suffix.lower()](path)
    except ArrayError:
        raise
    except FileNotFoundError as error:
        raise ArrayError("there is no such file") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:  # of Arrow: ValueError
        reason = one_line(str(error), _LONGEST_REASON) or type(error).__name__
        raise ArrayError(f"the file cannot be read: {reason}") from error
    return dataset_of(*examples)


def _npz(path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ArrayError("an archive of arrays is allowed (np.savez), not a single array")
        others = sorted(set(archive.files) - set(_ARRAYS))
        lacking = [name for name in _ARRAYS[:2] if name not in archive.files]
        if lacking or others:
            what = f"there is no {lacking[0]}" if lacking else f"not {others[0]}"
            raise ArrayError(f"arrays {', '.join(_ARRAYS)} are allowed; {what}")
        arrays = {name: _member(archive, name) for name in _ARRAYS if name in archive.files}
    features, label = arrays["features"], arrays["label"]
    # Whole numbers are token ids; images are uint8.
    normalise = features.dtype == np.uint8 or features.dtype.kind not in "iu"
    columns = Columns(features, label, arrays.get("client"), None, normalise)
    return by_marks(columns, arrays.get("split"))


def _member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        remedy = "save numbers, or text by np.array(names, str)"
        raise ArrayError(f"{name}: an array of Python objects is not read; {remedy}") from error


def _csv(path: Path) -> Examples:
    import pyarrow as pa
    from pyarrow import csv

    options = csv.ConvertOptions(
        null_values=_NULLS,
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        column_types={tables.TEXT: pa.string()},
    )
    parsing = csv.ParseOptions(newlines_in_values=True)  # a text may have several lines
    table = csv.read_csv(path, parse_options=parsing, convert_options=options)
    return tables.of_table(table)


def _parquet(path: Path) -> Examples:
    from pyarrow import parquet

    return tables.of_table(parquet.read_table(path))


_READERS: dict[str, Callable[[Path], Examples]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
}
