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
      of_classes: whether targets are the classes of examples.
      split: the examples that it is judged on: test, or validation where some are held out.
      of_tokens: whether the next tokens of examples are predicted.
    """

    metric: str
    higher_is_better: bool
    of_classes: bool
    split: str = "test"
    of_tokens: bool = False

    @property
    def label(self) -> str:
        """The metric in words; with its split, unless that is the test set."""
        words = self.metric.replace("_", " ")
        return words if self.split == "test" else f"{self.split} {words}"

    @property
    def title(self) -> str:
        """The metric in words with its split, such as "test accuracy"."""
        return f"{self.split} {self.metric.replace('_', ' ')}"

    @property
    def columns(self) -> tuple[str, str, str]:
        """Columns of metrics.csv: under the masks, without masks, and as deployed."""
        tested = f"{self.split}_{self.metric}"
        return tested, f"{tested}_dense", f"{tested}_deployed"

    @property
    def loss(self) -> str:
        """Column of the loss on the split."""
        return f"{self.split}_loss"

    @property
    def tested(self) -> str:
        """Column of the metric under the masks, which is empty where nothing was tested."""
        return self.columns[0]

    @staticmethod
    def final(column: str) -> str:
        """The entry of a summary with the last value of a column.

        Only the validation set is named: `final_accuracy` is of `test_accuracy`, and
        `final_validation_accuracy` of `validation_accuracy`.
        """
        return f"final_{column.removeprefix('test_')}"

    @property
    def best_entry(self) -> str:
        """The entry of a summary with the best value, such as `best_accuracy`."""
        return f"best_{self.tested.removeprefix('test_')}"

    @property
    def stored(self) -> dict[str, Any]:
        """As files have it: without defaults, as in earlier builds."""
        defaults = self._field_defaults
        return {k: v for k, v in self._asdict().items() if v != defaults.get(k)}

    def row_of(self, result: Evaluation) -> Row:
        """The columns of a round that is evaluated, from the evaluation on the host."""
        values = result.metric, result.metric_dense, result.metric_deployed
        metrics = zip(self.columns, map(float, values), strict=True)
        return {self.loss: float(result.loss), **dict(metrics)}

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


def file_of(name: str, split: str) -> str:
    """The name of a file about a split, such as `confusion_validation`; plain for the test set."""
    return name if split == "test" else f"{name}_{split}"


CLASSIFICATION = TaskRecord("accuracy", higher_is_better=True, of_classes=True)


def record_of(task: Task, split: str = "test") -> TaskRecord:
    """What files say of a task that is judged on a split."""
    metric = task.metric
    return TaskRecord(metric.name, metric.higher_is_better, task.of_classes, split, task.of_tokens)


def read_record(summary: Mapping[str, Any]) -> TaskRecord:
    """The record in a summary or fingerprint; builds that wrote none had classification alone.

    Raises:
      TypeError: what is under `task` is no record.
    """
    return TaskRecord(**summary["task"]) if "task" in summary else CLASSIFICATION
