"""The outcome of a setting over seeds, and what its runs are judged by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jfedsl.config import Config
from jfedsl.data import sources
from jfedsl.data.preparation import IMAGE_SETS
from jfedsl.run.assemble.task import asked_task
from jfedsl.run.storage.task_record import CLASSIFICATION, TaskRecord, read_record, record_of
from jfedsl.studies.axes import Point
from jfedsl.studies.columns import Column
from jfedsl.studies.paired import Values


class Outcome(NamedTuple):
    """The outcome of one setting: an entry for each seed.

    Attributes:
      name: of the setting.
      summaries: contents of summary.json with costs, see `with_costs`; None where training
        diverged.
      runs: evaluations; none where training diverged.
    """

    name: str
    summaries: list[dict[str, Any] | None]
    runs: list[list[Point]]


def values_of(outcome: Outcome, column: Column) -> Values:
    """A column's number of each seed; None where training diverged or a run has no such number."""
    return [column(summary) if summary else None for summary in outcome.summaries]


def expected_tasks(configs: Iterable[Config]) -> list[TaskRecord]:
    """What runs will be judged by, each once, known before they are trained.

    Sets of images have classes. Others are loaded, because their targets decide the task where no
    flag does.

    Raises:
      UserError: a data set cannot be read.
    """
    records: dict[TaskRecord, None] = {}
    of_classes: dict[tuple[str, str], bool] = {}
    for config in configs:
        place = config.dataset, config.data_dir
        if place not in of_classes:
            images = config.dataset in IMAGE_SETS
            of_classes[place] = images or sources.load(*place, lazily=True).of_classes
        split = "validation" if config.validation_fraction else "test"
        records[record_of(asked_task(config, of_classes[place]), split)] = None
    return list(records)


def tasks_of(summaries: Iterable[dict[str, Any] | None]) -> list[TaskRecord]:
    """What runs are judged by, each once; classification where no run has a summary."""
    records = dict.fromkeys(read_record(summary) for summary in summaries if summary)
    return list(records) or [CLASSIFICATION]


def all_tasks(outcomes: Sequence[Outcome]) -> list[TaskRecord]:
    """What the runs of all settings are judged by, each once."""
    return tasks_of(summary for outcome in outcomes for summary in outcome.summaries)


def metric_of(outcomes: Sequence[Outcome]) -> str:
    """The metric of a study in words, with its split; several where settings vary it."""
    return " or ".join(task.title for task in all_tasks(outcomes))


def tested(summary: Mapping[str, Any]) -> str:
    """The metric at the end of a run, such as "test accuracy 0.9000"."""
    task = read_record(summary)
    return f"{task.title} {summary[TaskRecord.final(task.tested)]:.4f}"
