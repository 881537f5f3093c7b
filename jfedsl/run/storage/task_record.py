"""What a run's files say of its task, so that its results are read without its data or plugins."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jfedsl.engine.evaluation import Evaluation
from jfedsl.engine.task import Task

Row = dict[str, Any]


class TaskRecord(NamedTuple):
    """What a run is judged by.

    Attributes:
      metric: name of the measure of success.
      higher_is_better: whether a greater value of it is a better one.
      of_classes: whether targets are classes.
    """

    metric: str
    higher_is_better: bool
    of_classes: bool

    @property
    def label(self) -> str:
        """The metric in words."""
        return self.metric.replace("_", " ")

    @property
    def columns(self) -> tuple[str, str, str]:
        """Columns of metrics.csv: under the masks, without masks, and as deployed."""
        tested = f"test_{self.metric}"
        return tested, f"{tested}_dense", f"{tested}_deployed"

    @property
    def tested(self) -> str:
        """Column of the metric under the masks, which is empty where nothing was tested."""
        return self.columns[0]

    @staticmethod
    def final(column: str) -> str:
        """The entry of a summary with the last value of a column, such as `final_accuracy`."""
        return f"final_{column.removeprefix('test_')}"

    def row_of(self, result: Evaluation) -> Row:
        """The test columns of a round, from the evaluation on the host."""
        values = result.metric, result.metric_dense, result.metric_deployed
        metrics = zip(self.columns, map(float, values), strict=True)
        return {"test_loss": float(result.loss), **dict(metrics)}

    def deployed(self, row: Row) -> float:
        """The metric as deployed; builds that did not test that had the activation unchanged."""
        deployed: float | None = row.get(self.columns[2])
        return row[self.tested] if deployed is None else deployed

    @property
    def best(self) -> Callable[..., Any]:
        """Picks the best, as `max` or `min`, with the same arguments."""
        return max if self.higher_is_better else min

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value of the metric is as good as the target or better."""
        return value >= target if self.higher_is_better else value <= target


CLASSIFICATION = TaskRecord("accuracy", higher_is_better=True, of_classes=True)


def record_of(task: Task) -> TaskRecord:
    """What files say of a task."""
    return TaskRecord(task.metric.name, task.metric.higher_is_better, task.of_classes)


def read_record(summary: Mapping[str, Any]) -> TaskRecord:
    """The record in a summary or fingerprint; builds that wrote none had classification alone.

    Raises:
      TypeError: what is under `task` is no record.
    """
    return TaskRecord(**summary["task"]) if "task" in summary else CLASSIFICATION
