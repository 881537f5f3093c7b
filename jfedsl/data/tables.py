"""Arrow tables, such as those of csv and parquet files, as examples."""

from typing import Any

import numpy as np

from jfedsl.data.arrays import ArrayError
from jfedsl.data.columns import Columns, by_marks, missing_error
from jfedsl.data.labels import shortened

TEXT = "text"
_NOT_FEATURES = ("label", "client", "split")
_SHOWN = 30  # characters of a value in an error


def of_table(table: Any, class_names: Any = None) -> tuple[Columns, Columns | None]:
    """Training examples and, where `split` marks them, test examples of an Arrow table.

    Columns of numbers are features `[N, C]`, in the order of the table. One column of lists of
    equal lengths instead is features `[N, ...]`; whole numbers in it, such as token ids, are left
    as they are. A column `text` instead has the texts of a text data set.

    Args:
      table: a `pyarrow.Table` with a column `label`, and maybe `client` and `split`.
      class_names: as for `Columns`.

    Raises:
      ArrayError: names the column and the row that cannot be used.
    """
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArrayError(f"column names: different ones are allowed, and {twice[0]} comes twice")
    if "label" not in names:
        raise ArrayError(f"a column label is needed; the columns are {', '.join(names)}")
    if not table.num_rows:
        raise ArrayError("there are no rows")
    _check_missing(table)
    features = [name for name in names if name not in _NOT_FEATURES]
    if not features:
        raise ArrayError("a column of features is needed beside label, client and split")
    inputs, normalise = _inputs(table, features)
    label, client, split = (_values(table[n]) if n in names else None for n in _NOT_FEATURES)
    assert label is not None
    return by_marks(Columns(inputs, label, client, class_names, normalise), split)


def _inputs(table: Any, features: list[str]) -> tuple[np.ndarray, bool]:
    """Inputs of the examples, and whether a run normalises them."""
    if TEXT in features:
        return _texts(table, features), False
    if len(features) > 1 or not _is_list(table[features[0]].type):
        return _matrix(table, features), True
    lists = nested(table[features[0]])
    return lists, lists.dtype == np.uint8 or lists.dtype.kind == "f"


def _texts(table: Any, features: list[str]) -> np.ndarray:
    """The column of texts as objects `[N]`."""
    import pyarrow as pa

    others = [name for name in features if name != TEXT]
    if others:
        raise ArrayError(
            f"with a column {TEXT}, only label, client and split are allowed, not "
            f"{shortened(others)}; leave them out, or give {TEXT} another name"
        )
    column = table[TEXT]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ArrayError(f"column {TEXT}: texts are allowed, not {column.type}")
    return np.array(column.to_pylist(), object)


def _check_missing(table: Any) -> None:
    """Refuses missing values and NaN in any column."""
    count, first = 0, (table.num_rows, "")
    for name in table.column_names:
        missing = table[name].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(missing)
        if rows.size:
            count, first = count + rows.size, min(first, (int(rows[0]), name))
    if count:
        raise missing_error(count, first[0], f"column {first[1]}")


def _matrix(table: Any, names: list[str]) -> np.ndarray:
    """Columns of numbers as one array `[N, C]`, filled column by column."""
    columns = [_numbers(table, name) for name in names]
    matrix = np.empty((table.num_rows, len(names)), np.result_type(*{c.dtype for c in columns}))
    for number, column in enumerate(columns):
        matrix[:, number] = column
    return matrix


def _numbers(table: Any, name: str) -> np.ndarray:
    import pyarrow as pa

    column, kind = table[name], table[name].type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ArrayError(f"column {name}: numbers are allowed, not {_first_text(column)}")
    return column.to_numpy()


def _first_text(column: Any) -> str:
    """The first value of a column that is no number, and its row."""
    for row, value in enumerate(column.to_pylist(), 1):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{str(value)[:_SHOWN]!r} ({column.type}) in row {row}"
    return f"{column.type}"


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def nested(column: Any) -> np.ndarray:
    """Lists of numbers as an array `[N, ...]`.

    Raises:
      ArrayError: lists differ in length, or hold something else.
    """
    import pyarrow.compute as pc

    array, shape = column.combine_chunks(), [len(column)]
    while _is_list(array.type):
        lengths = pc.list_value_length(array).unique().to_pylist()
        if len(lengths) > 1:
            least, most = min(lengths), max(lengths)
            raise ArrayError(
                f"lists of equal lengths are allowed, not of {least} to {most} entries"
            )
        shape.append(lengths[0])
        array = array.flatten()
    if array.null_count:
        raise ArrayError(f"{array.null_count} missing values in lists; fill them in")
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "buif":
        raise ArrayError(f"lists of numbers are allowed, not of {array.type}")
    return values.reshape(shape)


def _values(column: Any) -> np.ndarray:
    """Labels, clients or marks as NumPy has them; text as an array of texts."""
    import pyarrow as pa

    array = column.combine_chunks()
    if _is_list(array.type):
        return nested(column)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        names = array.dictionary.to_numpy(zero_copy_only=False)
        texts = names.astype(str) if names.dtype.kind == "O" else names
        return texts[array.indices.to_numpy(zero_copy_only=False)]
    return array.to_numpy(zero_copy_only=False)
