"""Examples of a file: labels of any kind, the fixed tenth, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.data.arrays import ArrayError
from jfedsl.data.columns import Columns, by_marks, check, dataset_of, fixed_tenth
from jfedsl.data.labels import numbered

X = np.arange(120.0).reshape(40, 3)
Y = np.arange(40) % 3
ANN_BOB = np.repeat(["ann", "bob"], [25, 15])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.array(["cat", "ant", "bee"]), ("ant", "bee", "cat")),
        (np.array([7, 1, -2]), ("-2", "1", "7")),
        (np.array([True, False, True]), ("False", "True")),
        (np.array([0, 1, 2]), ()),
    ],
)
def test_labels_of_any_kind_become_classes_and_keep_their_names(
    names: np.ndarray, expected: tuple[str, ...]
) -> None:
    labels = names[Y]
    data = dataset_of(Columns(X[:30], labels[:30]), Columns(X[30:], labels[30:]))
    assert data.class_names == expected
    values = np.unique(names)
    assert data.classes == len(values)
    np.testing.assert_array_equal(values[data.train.labels], labels[:30])
    np.testing.assert_array_equal(values[data.test.labels], labels[30:])


def test_floats_are_targets_of_a_regression() -> None:
    data = dataset_of(Columns(X, Y + 0.5), None)
    assert not data.of_classes and data.classes == 1 and len(data.test.labels) == 4


def test_given_names_are_those_of_all_classes_the_unused_ones_too() -> None:
    data = dataset_of(Columns(X, Y, None, list("abcd")), None)
    assert data.classes == 4 and data.class_names == ("a", "b", "c", "d")


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), seed=st.integers(0, 9))
def test_a_tenth_of_each_client_is_tested(sizes: list[int], seed: int) -> None:
    sizes = [*sizes, 30]
    owners = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    is_test = fixed_tenth(np.zeros(len(owners), int), owners)
    expected = [(size + 5) // 10 for size in sizes]
    assert np.bincount(owners[is_test], minlength=len(sizes)).tolist() == expected
    np.testing.assert_array_equal(is_test, fixed_tenth(np.zeros(len(owners), int), owners))


def test_the_last_training_example_of_a_class_is_not_tested() -> None:
    (tested,) = np.nonzero(fixed_tenth(np.zeros(40, int), None))
    label = np.zeros(40, int)
    label[tested[:2]] = 1, 2
    is_test = fixed_tenth(label, None)
    assert not is_test[tested[:2]].any() and is_test[tested[2:]].all()


def test_owners_and_marks_go_along_with_their_examples() -> None:
    split = np.where(np.arange(40) % 4 == 0, "test", "train")
    data = dataset_of(*by_marks(Columns(X, Y, ANN_BOB), split))
    train = split == "train"
    np.testing.assert_array_equal(data.train.images, X[train].astype(np.float32))
    np.testing.assert_array_equal(data.test.images, X[~train].astype(np.float32))
    assert data.train.owners is not None
    np.testing.assert_array_equal(np.array(["ann", "bob"])[data.train.owners], ANN_BOB[train])


NAN = np.where(np.arange(120).reshape(40, 3) % 50 == 17, np.nan, X)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (Columns(NAN, Y), "3 missing values, the first in row 6 of features; fill them in"),
        (Columns(X, np.where(Y > 1, "", "a")), "13 missing values, the first in row 3 of label"),
        (Columns(X, Y[:9]), r"label: an array \[40\] is allowed, not \[9\]"),
        (Columns(X, Y, ANN_BOB[:9]), r"client: an array \[40\] is allowed, not \[9\]"),
        (Columns(np.array(1.0), Y), r"features: an array \[N, ..., C\] is allowed, not \[\]"),
    ],
)
def test_missing_values_and_lengths_that_differ_are_named(columns: Columns, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        check(columns)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: dataset_of(Columns(X[:, 0], Y), None), r"train inputs: real numbers \[N, ..., C"),
        (lambda: numbered(Y, Y[:, None]), r"label: text, whole numbers or bools \[N\] are allowed"),
        (
            lambda: numbered(np.array(["a"]), np.array(["a", "c", "b", "c"])),
            r"test examples have the labels b \(1\), c \(2\), which no training example has",
        ),
        (lambda: fixed_tenth(np.arange(4), None), "no client has the 5 examples of which one can"),
        (
            lambda: dataset_of(
                Columns(X[:25], Y[:25], ANN_BOB[:25]), Columns(X[25:], Y[25:], ANN_BOB[25:])
            ),
            "clients without training examples: bob",
        ),
        (lambda: by_marks(Columns(X, Y), np.array(["valid"] * 40)), "train or test is allowed, n"),
        (lambda: by_marks(Columns(X, Y), np.array(["train"] * 40)), "all rows are train"),
        (lambda: by_marks(Columns(X, Y), Y), r"split: texts train or test \[40\] are allowed, no"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(made: Any, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        made()
