"""Pictures by class: counts, and names where classes have them."""

import numpy as np
import pytest

from jfedsl.run.plots import classes as pictures


@pytest.mark.parametrize(("clients", "classes"), [(3, 4), (250, 100), (1, 1)])
def test_labels_of_every_client(clients: int, classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 50, (clients, classes))
    mix, size = pictures.labels(counts).axes[:2]
    np.testing.assert_array_equal(mix.images[0].get_array(), counts)
    (bars,) = size.patches
    assert bars.orientation == "horizontal"
    np.testing.assert_array_equal(bars.get_data().values, counts.sum(axis=1))
    np.testing.assert_array_equal(bars.get_data().edges, np.arange(clients + 1) - 0.5)
    assert max(len(mix.get_xticks()), len(mix.get_yticks())) <= 20


def test_names_of_classes_are_on_the_axis_and_long_ones_shortened() -> None:
    figure = pictures.labels(np.ones((2, 3), int), names=["cat", "$dog", "x" * 60])
    texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert texts == ["cat", r"\$dog", "x" * 21 + "..."]


def test_confusion_shows_fractions_of_true_classes_and_counts() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    axis = pictures.confusion(counts, names=["cat", "dog", "eel"]).axes[0]
    expected = [[0.75, 0.25, 0], [0, 0, 0], [0.5, 0, 0.5]]
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert [text.get_text() for text in axis.texts] == ["3", "1", "2", "2"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["cat", "dog", "eel"]
