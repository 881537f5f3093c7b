"""Tables of a report: metric and costs of settings over seeds, and against one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jfedsl.config.canonical import period_of
from jfedsl.run.storage.metrics import STREAMS, summarise
from jfedsl.run.storage.task_record import TaskRecord
from jfedsl.run.storage.workdir import read_summary
from jfedsl.studies.axes import points
from jfedsl.studies.collect import RecordedRun, Setting
from jfedsl.studies.columns import (
    Column,
    mean_and_range,
    median_round_seconds,
    megabytes,
    metric_columns,
    simulated,
    test_columns,
    to_target,
)
from jfedsl.studies.costs import median_of_rounds, with_costs
from jfedsl.studies.paired import CAPTION, ONE_SEED, Measure, paired_table
from jfedsl.studies.tables import TARGET_NOTE

_ALIGN = "---:"
# By seed, the summaries of a setting's runs.
_Summaries = Mapping[int, dict[str, Any]]


def tables(
    settings: Sequence[Setting],
    cells: Sequence[str],
    task: TaskRecord,
    target: float,
    reference: int,
) -> list[str]:
    """Headings, captions and tables as Markdown.

    Args:
      settings: of the report.
      cells: what stands for each of them in tables.
      task: what all runs are judged by.
      target: value of the metric to compare costs at.
      reference: number of the setting that the others are compared with, from 0.
    """
    summaries = {
        cell: {run.config.seed: _summary(run, target) for run in setting.runs}
        for cell, setting in zip(cells, settings, strict=True)
    }
    metrics: dict[str, Column] = {
        **metric_columns([task]),
        "best": lambda s: s[task.best_entry],
        **test_columns([task]),
    }
    reached: dict[str, Column] = {
        "rounds": to_target("rounds"),
        "megabytes": to_target("bytes", 1e6),
        "simulated seconds": to_target("seconds"),
        "joules": to_target("joules"),
    }
    seconds: dict[str, Column] = {
        "simulated seconds": simulated("seconds"),
        "median s a round": median_round_seconds,
    }
    streams = {f"{name.replace('_', ' ')} MB": megabytes(name) for name in STREAMS}
    whole: dict[str, Column] = {
        "rounds": lambda s: s["rounds"],
        **streams,
        **seconds,
        "joules": simulated("energy_joules"),
        "host seconds": lambda s: s["host_seconds"],
    }
    parts = [
        f"## To {task.label} {target:g}, as deployed",
        TARGET_NOTE,
        _table(summaries, {**metrics, **reached}),
        "## In all",
        _table(summaries, whole),
    ]
    if len(settings) == 1:
        return parts
    costs = {f"{title} to {target:g}": column for title, column in reached.items()} | seconds
    return parts + _against(summaries, metrics, costs, cells[reference])


def _summary(run: RecordedRun, target: float) -> dict[str, Any]:
    """A run summarised for a target; with its final test, which its rows lack, if it has ended."""
    written, period = read_summary(run.folder) or {}, period_of(run.config)
    ended = written.get("rounds") == run.rows[-1]["round"]
    names = map(TaskRecord.final, run.task._replace(split="test").columns)
    test = {name: written.get(name) for name in names} if ended else {}
    summary = {**test, **summarise(run.rows, target, period, run.task)}
    median = median_of_rounds(run.rows, period)
    return with_costs(summary, points(run.rows, run.task), median, target, period)


def _table(settings: Mapping[str, _Summaries], columns: Mapping[str, Column]) -> str:
    """A Markdown table with a row for each setting: means over its seeds, with their ranges."""
    titles = ["setting", "seeds", *columns]
    lines = [f"| {' | '.join(titles)} |", "| --- " + f"| {_ALIGN} " * (len(titles) - 1) + "|"]
    for cell, summaries in settings.items():
        values = [
            mean_and_range([column(s) for s in summaries.values()]) for column in columns.values()
        ]
        lines.append(f"| {cell} | {len(summaries)} | {' | '.join(values)} |")
    return "\n".join(lines)


def _against(
    settings: Mapping[str, _Summaries],
    metrics: Mapping[str, Column],
    costs: Mapping[str, Column],
    reference: str,
) -> list[str]:
    """Heading, caption and table of the other settings against one, seed by seed."""
    seeds = sorted({seed for summaries in settings.values() for seed in summaries})

    def measure(title: str, column: Column, is_ratio: bool) -> Measure:
        values = {
            cell: [column(summaries[seed]) if seed in summaries else None for seed in seeds]
            for cell, summaries in settings.items()
        }
        return Measure(title, is_ratio, values)

    measures = [
        *(measure(title, column, False) for title, column in metrics.items()),
        *(measure(title, column, True) for title, column in costs.items()),
    ]
    caption = ONE_SEED if len(seeds) == 1 else CAPTION
    table = paired_table(measures, reference, _ALIGN)
    return ["## Seed by seed", f"Against {reference}. {caption}", table]
