"""What files say of a task: columns, which way is better, and what earlier builds left out."""

import jax.numpy as jnp
import pytest

from jfedsl.engine.evaluation import Evaluation
from jfedsl.engine.task import TASKS
from jfedsl.run.storage.task_record import CLASSIFICATION, TaskRecord, read_record, record_of

ERROR = TaskRecord("mean_absolute_error", higher_is_better=False, of_classes=False)


def test_a_task_is_recorded_and_read_again() -> None:
    assert record_of(TASKS["classification"]) == CLASSIFICATION
    assert record_of(TASKS["regression"]) == ERROR
    assert read_record({"task": ERROR._asdict()}) == ERROR
    assert read_record({"final_accuracy": 0.5}) == CLASSIFICATION, "of an earlier build"
    with pytest.raises(TypeError):
        read_record({"task": {"metric": "accuracy"}})


def test_columns_have_the_name_of_the_metric() -> None:
    result = Evaluation(*map(jnp.float32, (1, 2, 3, 4)))
    assert CLASSIFICATION.row_of(result) == {
        "test_loss": 1,
        "test_accuracy": 2,
        "test_accuracy_dense": 3,
        "test_accuracy_deployed": 4,
    }
    assert ERROR.tested == "test_mean_absolute_error"
    assert [TaskRecord.final(c) for c in ERROR.columns] == [
        "final_mean_absolute_error",
        "final_mean_absolute_error_dense",
        "final_mean_absolute_error_deployed",
    ]


def test_better_is_higher_or_lower() -> None:
    values = [3.0, 1.0, 2.0]
    assert CLASSIFICATION.best(values) == 3.0 and ERROR.best(values) == 1.0
    assert [CLASSIFICATION.reaches(v, 2.0) for v in values] == [True, False, True]
    assert [ERROR.reaches(v, 2.0) for v in values] == [False, True, True]


def test_the_deployed_value_is_that_under_the_masks_where_no_other_was_tested() -> None:
    row = {"test_accuracy": 0.25, "test_accuracy_deployed": 0.5}
    assert CLASSIFICATION.deployed(row) == 0.5
    assert CLASSIFICATION.deployed({**row, "test_accuracy_deployed": None}) == 0.25


def test_all_names_say_that_values_are_of_a_validation_set() -> None:
    task = record_of(TASKS["classification"], "validation")
    assert (task.tested, task.loss) == ("validation_accuracy", "validation_loss")
    assert task.title == task.label == "validation accuracy"
    assert [TaskRecord.final(c) for c in task.columns][0] == "final_validation_accuracy"
    assert task.best_entry == "best_validation_accuracy"
    assert read_record({"task": task.stored}) == task != CLASSIFICATION
    assert (CLASSIFICATION.title, CLASSIFICATION.label) == ("test accuracy", "accuracy")
    assert "split" not in CLASSIFICATION.stored, "as in files of earlier builds"
