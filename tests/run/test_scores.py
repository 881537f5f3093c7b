"""Scores of the joined model are those of scikit-learn, and the tables name the classes."""

import warnings

import numpy as np
import pytest
from sklearn import metrics

from jfedsl.run.scores import lines_of, of_classes, of_numbers


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_classes(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, predicted = (
        draw.choice([0, 1, 2, 4], 60, p=[0.6, 0.2, 0.1, 0.1]),
        draw.integers(0, 4, 60),
    )
    scores = of_classes(predicted, labels, classes=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted alone
        balanced = metrics.balanced_accuracy_score(labels, predicted)
        macro = metrics.f1_score(labels, predicted, average="macro")
    assert scores["balanced_accuracy"] == pytest.approx(balanced)
    assert scores["macro_f1"] == pytest.approx(macro)
    confusion = np.array(scores["confusion"])
    for true in range(6):
        for other in range(6):
            assert confusion[true, other] == np.sum((labels == true) & (predicted == other))
    assert scores["recall"][5] == scores["precision"][5] == 0.0


def test_scores_of_numbers() -> None:
    targets = np.array([[1.0], [2.0], [3.0]], np.float32)
    scores = of_numbers(targets + np.float32(0.5), targets)
    assert scores["mean_squared_error"] == pytest.approx(0.25)
    assert scores["r2"] == pytest.approx(1 - 0.25 / (2 / 3))
    assert of_numbers(targets[:1], targets[:1])["r2"] is None
    assert lines_of(scores, ())[1:] == [
        f"{'  mean squared error':<28}0.2500",
        f"{'  R2':<28}0.6250",
    ]


def test_the_table_names_classes_and_leaves_many_out() -> None:
    scores = of_classes(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    lines = lines_of(scores, ["cat", "dog"])
    assert lines[-1].split() == ["dog", "1.0000", "0.5000", "0.6667", "1"]
    assert lines[-2].split()[:2] == ["cat", "0.5000"]
    assert len(lines_of(of_classes(np.arange(30), np.arange(30), 30), ())) == 3
