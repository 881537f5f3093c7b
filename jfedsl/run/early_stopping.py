"""Hooks that end a run before its last round, and the flags that ask for them."""

from collections.abc import Sequence

from jfedsl.config import Config
from jfedsl.config.canonical import period_of
from jfedsl.errors import UserError, close_to
from jfedsl.run.hooks import Hook, RunStart, Saved
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord


class EarlyStopping(Hook):
    """Ends a run when a metric has stopped improving.

    Examples:
      >>> hook = EarlyStopping(patience=2, metric="test_accuracy")
      >>> for accuracy in (0.5, 0.7, 0.7, 0.6):
      ...     hook.on_rows([{"test_accuracy": accuracy}])
      >>> hook.should_end()
      True
    """

    def __init__(
        self,
        patience: int,
        metric: str | None = None,
        min_delta: float = 0.0,
        larger_is_better: bool | None = None,
    ) -> None:
        """Counts from the first value of the metric.

        Args:
          patience: values in a row, without improvement, after which the run ends; at least 1.
          metric: a column of metrics.csv; None for the task's metric, on the validation set if
            there is one, else on the test set. Rounds that were not evaluated do not count.
          min_delta: an improvement is larger than this.
          larger_is_better: None to follow the task, and False for columns that end in `loss`.

        Raises:
          ValueError: `patience` is less than 1.
        """
        if patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self._patience, self._metric, self._min_delta = patience, metric, min_delta
        self._larger_is_better = larger_is_better
        self._task = CLASSIFICATION
        self._best: float | None = None
        self._since = 0  # values since the best one

    @property
    def _column(self) -> str:
        return self._metric or self._task.tested

    @property
    def _name(self) -> str:
        return f"early stopping on {self._column}"  # in a checkpoint

    def begin(self, start: RunStart) -> None:
        """Takes the task of the run, and the count of the checkpoint.

        In a run that began without this hook, the rounds before it count too.
        """
        self.of_run(start.config, start.experiment.record)
        saved = start.saved.values.get(self._name)
        if saved is not None:
            self._best, self._since = saved["best"], saved["since"]
        else:
            self.on_rows(start.rows)

    def of_run(self, config: Config, task: TaskRecord) -> None:
        """Takes what the hook depends on in a run."""
        self._task = task

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Counts the values of the metric.

        Raises:
          UserError: a round was evaluated, and has no such column.
        """
        larger = self._larger_is_better
        if larger is None:
            larger = self._task.higher_is_better and not self._column.endswith("loss")
        for row in rows:
            value = row.get(self._column)
            if value is None:
                if row.get(self._task.tested) is not None:
                    close = close_to(self._column, row)
                    raise UserError(f"metrics.csv has no column {self._column} to stop on{close}")
                continue
            gain = None if self._best is None else (value - self._best) * (1 if larger else -1)
            if gain is None or gain > self._min_delta:
                self._best, self._since = value, 0
            else:
                self._since += 1

    def should_end(self) -> bool:
        """Whether the metric has not improved for `patience` values."""
        return self._since >= self._patience

    def end_reason(self) -> str:
        """Such as "no improvement of test_loss in 10 evaluations"."""
        metric = f" of {self._metric}" if self._metric else ""
        plural = "" if self._patience == 1 else "s"
        return f"no improvement{metric} in {self._patience} evaluation{plural}"

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
        self.of_run(start.config, start.experiment.record)
        if self._NAME in start.saved.values:
            self._best = start.saved.values[self._NAME]
        else:
            self.on_rows(start.rows)

    def of_run(self, config: Config, task: TaskRecord) -> None:
        """Takes what the hook depends on in a run."""
        self._target, self._period, self._task = config.target_accuracy, period_of(config), task

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Looks at the rounds that were evaluated at the end of a period."""
        tested = [row for row in rows if row.get(self._task.tested) is not None]
        ends = [row for row in tested if row["round"] % self._period == 0]
        values = [*map(self._task.deployed, ends), *([] if self._best is None else [self._best])]
        self._best = self._task.best(values) if values else None

    def should_end(self) -> bool:
        """Whether the target has been reached."""
        return self._best is not None and self._task.reaches(self._best, self._target)

    def end_reason(self) -> str:
        """Such as "accuracy 0.95 reached"."""
        return f"{self._task.label} {self._target:g} reached"

    def on_checkpoint(self) -> Saved:
        """The best value so far."""
        return Saved({self._NAME: self._best})


def hooks_of(config: Config) -> list[EarlyStopping | StopAtTarget]:
    """The hooks that `--patience` and `--stop_at_target` ask for."""
    return [
        *([EarlyStopping(config.patience)] if config.patience else []),
        *([StopAtTarget()] if config.stop_at_target else []),
    ]


def ended_by_flags(config: Config, rows: Sequence[Row], task: TaskRecord) -> bool:
    """Whether `--patience` or `--stop_at_target` ends a run after these rows of metrics.csv."""
    hooks = hooks_of(config)
    if not hooks or rows[-1][task.tested] is None:
        return False
    for hook in hooks:
        hook.of_run(config, task)
        hook.on_rows(rows)
    return any(hook.should_end() for hook in hooks)
