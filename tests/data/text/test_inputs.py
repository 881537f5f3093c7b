"""A user's texts."""

from typing import Any

import numpy as np
import pytest

from jfedsl import from_texts
from jfedsl.data.arrays import ArrayError

TEXTS = ["a b", "", "c"]


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object)])
def test_texts_of_any_kind_become_objects(texts: Any) -> None:
    data = from_texts((texts, [3, 5, 3]), (["x"], [5]), clients=[7, 7, 2])
    assert data.of_texts and not data.normalise and data.train.images.dtype == object
    assert data.train.images.tolist() == TEXTS and data.test.images.tolist() == ["x"]
    assert data.class_names == ("3", "5") and data.train.labels.tolist() == [0, 1, 0]
    assert data.train.owners is not None and data.train.owners.tolist() == [1, 1, 0]
    some = data.train.at(np.array([2, 0]))
    assert some.images.tolist() == ["c", "a b"] and some.byte_counts is None


def test_texts_with_numbers_as_targets() -> None:
    data = from_texts((TEXTS, [0.5, 1, 2]), (["x"], [0.1]), targets="numbers")
    assert data.train.labels.shape == (3, 1) and not data.of_classes


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        ([], r"train inputs: texts \[N\] are allowed, not an array \[0\]"),
        ([["a"], ["b"]], r"not an array \[2, 1\]"),
        ("one text", r"not an array \[\]"),
        (["a", 5.5], "train inputs: texts are allowed, not float 5.5 in row 2"),
        (["a", None], "not NoneType None in row 2"),
    ],
)
def test_what_is_no_text_is_named(texts: Any, error: str) -> None:
    with pytest.raises(ArrayError, match=error):
        from_texts((texts, [0] * len(texts)), (["x"], [0]))
