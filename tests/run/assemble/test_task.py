"""The task of a run: from flags or the data set, and one line for what does not fit together."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain

from jfedsl.data.datasets import DATASETS, Dataset, Split, from_arrays
from jfedsl.engine.task import LOSSES, METRICS, TASKS, Metric
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.run.assemble.task import task_of, with_targets

pytestmark = pytest.mark.usefixtures("tables")
X = np.arange(80.0).reshape(40, 2)
OF_CLASSES = from_arrays((X, np.arange(40) % 3), (X, np.arange(40) % 3))
OF_NUMBERS = from_arrays((X, X), (X, X), targets="numbers")


def test_the_data_set_says_the_task_unless_flags_do() -> None:
    assert task_of(plain(), OF_CLASSES) == TASKS["classification"]
    assert task_of(plain(), OF_NUMBERS) == TASKS["regression"]
    assert task_of(plain(task="regression"), OF_CLASSES) == TASKS["regression"]
    task = task_of(plain(loss="huber"), OF_NUMBERS)
    assert task == TASKS["regression"]._replace(loss=LOSSES["huber"])
    METRICS["within"] = Metric("within", lambda y, t: jnp.all(y > t, axis=-1).astype(jnp.float32))
    assert task_of(plain(metric="within"), OF_NUMBERS).metric is METRICS["within"]


def test_labels_are_numbers_where_the_task_says_so() -> None:
    assert with_targets(OF_CLASSES, TASKS["classification"]) is OF_CLASSES
    numbers = with_targets(OF_CLASSES, TASKS["regression"])
    assert numbers.classes == 1 and numbers.train.labels.dtype == np.float32
    np.testing.assert_array_equal(numbers.train.labels, (np.arange(40) % 3)[:, None])
    by_hand = Dataset(Split(X, X[:, 0]), Split(X, X[:, 0]), classes=1)
    assert with_targets(by_hand, TASKS["regression"]).test.labels.shape == (40, 1)


def wide(outputs: Any, targets: Any) -> Any:
    return outputs - targets


def failing(outputs: Any, targets: Any) -> Any:
    raise RuntimeError("no\nway")


ONE = r"one that makes float32 \[B\] of outputs float32 \[B, 2\] and targets float32 \[B, 2\]"


@pytest.mark.parametrize(
    ("dataset", "changes", "text"),
    [
        (OF_NUMBERS, {"task": "classification"}, "--task must be one of regression, not class"),
        (OF_NUMBERS, {"loss": "cross_entropy"}, f"--loss must be {ONE} .* fails: TypeError"),
        (OF_NUMBERS, {"metric": "accuracy"}, f"--metric must be {ONE} .* fails: "),
        (OF_NUMBERS, {"loss": "wide"}, f"--loss must be {ONE} .* makes float32 .3, 2. of 3 ex"),
        (OF_NUMBERS, {"loss": "failing"}, "fails: RuntimeError: no way$"),
        (OF_CLASSES, {"loss": "huber"}, r"targets int32 \[B\] with --task=classification, not hu"),
        (OF_CLASSES, {"task": "mine"}, "--task must be one that makes .* not mine; this one "),
        (OF_CLASSES, {"metric": "loss"}, "--metric must be a metric whose `name` has only"),
        (OF_CLASSES, {"metric": "Top 2"}, "--metric must be a metric whose `name` has only"),
        (OF_CLASSES, {"target_accuracy": 1.5}, r"--target_accuracy must be a number in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_one_line(dataset: Dataset, changes: Any, text: str) -> None:
    LOSSES.update(wide=wide, failing=failing)
    TASKS["mine"] = TASKS["classification"]._replace(loss=wide)
    for name in ("loss", "Top 2"):
        METRICS[name] = METRICS["accuracy"]._replace(name=name)
    with pytest.raises(UserError, match=text):
        task_of(plain(**changes), dataset)
    assert task_of(plain(target_accuracy=1.5), OF_NUMBERS)


@pytest.mark.parametrize("kind", ["dirichlet", "shards"])
def test_partitions_by_class_need_classes(kind: str) -> None:
    DATASETS["numbers"] = lambda _: OF_NUMBERS
    text = f"--partition must be one of iid, quantity, natural, not {kind}; it spreads classes"
    with pytest.raises(UserError, match=text):
        build(plain(dataset="numbers", partition=kind))


def test_ids_are_not_changed_at_random() -> None:
    ids = np.zeros((40, 8, 8, 1), np.int32)
    labels = np.arange(40) % 3
    DATASETS["ids"] = lambda _: from_arrays((ids, labels), (ids, labels), normalise=False)
    with pytest.raises(UserError, match="--augment must be none with inputs that are whole numb"):
        build(plain(dataset="ids", augment="crop_flip"))
