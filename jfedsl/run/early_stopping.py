"""Hooks that end a run before its last round."""

from jfedsl.run.hooks import Hook, RunStart, Saved
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, record_of


class EarlyStopping(Hook):
    """Ends a run when a metric has stopped improving.

    >>> hook = EarlyStopping(patience=2)
    >>> for accuracy in (0.5, 0.7, 0.7, 0.6):
    ...     hook.on_rows([{"test_accuracy": accuracy}])
    >>> hook.should_end()
    True
    """

    def __init__(
        self,
        patience: int,
        metric: str = "test_accuracy",
        min_delta: float = 0.0,
        larger_is_better: bool = True,
    ) -> None:
        """Counts from the first value of the metric.

        Args:
          patience: values in a row, without improvement, after which the run ends; at least 1.
          metric: a column of metrics.csv. Rounds without a value of it, such as those that were not
            evaluated, do not count.
          min_delta: an improvement is larger than this.
          larger_is_better: False for a loss.

        Raises:
          ValueError: `patience` is less than 1.
        """
        if patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self._patience, self._metric, self._min_delta = patience, metric, min_delta
        self._sign = 1.0 if larger_is_better else -1.0
        self._best: float | None = None
        self._since = 0  # values since the best one
        self._name = f"early stopping on {metric}"  # in a checkpoint

    def begin(self, start: RunStart) -> None:
        """Resumes the count of the checkpoint."""
        saved = start.saved.values.get(self._name)
        if saved is not None:
            self._best, self._since = saved["best"], saved["since"]

    def on_rows(self, rows: list[Row]) -> None:
        """Counts the values of the metric."""
        for row in rows:
            value = row.get(self._metric)
            if value is None:
                continue
            gain = None if self._best is None else self._sign * (value - self._best)
            if gain is None or gain > self._min_delta:
                self._best, self._since = value, 0
            else:
                self._since += 1

    def should_end(self) -> bool:
        """Whether the metric has not improved for `patience` values."""
        return self._since >= self._patience

    def on_checkpoint(self) -> Saved:
        """The best value, and the number of values since."""
        return Saved({self._name: {"best": self._best, "since": self._since}})


class StopAtTarget(Hook):
    """Ends a run when it reaches `--target_accuracy`, as the summary counts it.

    The deployed model reaches that value of the metric at the end of an aggregation period.
    """

    _NAME = "stop at target"  # in a checkpoint

    def __init__(self) -> None:
        """Begins with the run."""
        self._target, self._period, self._task = 0.0, 1, CLASSIFICATION
        self._best: float | None = None

    def begin(self, start: RunStart) -> None:
        """Takes the target of the run, and the best value so far."""
        self._target = start.config.target_accuracy
        self._period = start.experiment.spec.aggregate_every
        self._task = record_of(start.experiment.spec.task)
        self._best = start.saved.values.get(self._NAME, self._best)

    def on_rows(self, rows: list[Row]) -> None:
        """Looks at the rounds that were evaluated at the end of a period."""
        tested = [row for row in rows if row.get(self._task.tested) is not None]
        ends = [row for row in tested if row["round"] % self._period == 0]
        values = [*map(self._task.deployed, ends), *([] if self._best is None else [self._best])]
        self._best = self._task.best(values) if values else None

    def should_end(self) -> bool:
        """Whether the target has been reached."""
        return self._best is not None and self._task.reaches(self._best, self._target)

    def on_checkpoint(self) -> Saved:
        """The best value so far."""
        return Saved({self._NAME: self._best})
