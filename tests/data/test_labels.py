"""Labels of any kind as numbers of classes."""

import numpy as np
import pytest

from jfedsl.data.arrays import ArrayError
from jfedsl.data.labels import are_plain, classes_of, shortened


@pytest.mark.parametrize("labels", [[0, 2, 1], [[1], [2]], [0.5, 1.5], [[1], [2, 3]], []])
def test_numbers_of_classes_and_what_is_no_label_stay_as_they_are(labels: object) -> None:
    assert classes_of(labels, labels) == (None, labels, labels)


def test_a_class_may_be_in_the_test_set_alone_where_labels_are_its_numbers() -> None:
    assert classes_of([0, 1], [2]).values is None
    with pytest.raises(ArrayError, match=r"the label 3 \(1\), which no training example has"):
        classes_of([0, 1], [3])


def test_texts_and_numbers_do_not_mix() -> None:
    with pytest.raises(ArrayError, match="texts or numbers in both splits"):
        classes_of(["0", "1"], [0, 1])


def test_plain_values_are_whole_numbers_from_0() -> None:
    assert are_plain(np.arange(3)) and not are_plain(np.arange(1, 4))
    assert not are_plain(np.array([False, True])) and not are_plain(np.array([0.0, 1.0]))


def test_long_lists_are_shortened() -> None:
    assert shortened(list("abcdefg")) == "a, b, c, d, e and 2 more"
