"""metrics.csv, an append-only file with a row for each round, and the summary of its rows."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jfedsl.engine.streams import LOCAL, SPLIT_STREAMS
from jfedsl.errors import UserError
from jfedsl.files.paths import Name, local
from jfedsl.run.storage import ledger
from jfedsl.run.storage.task_record import CLASSIFICATION, Row, TaskRecord

METRICS = "metrics.csv"
_BEFORE_METRIC = ("round", "train_loss")
_AFTER_METRIC = (
    "smashed_up_bytes",
    "cut_gradient_down_bytes",
    "model_up_bytes",
    "model_down_bytes",
    "cumulative_bytes",
    "participants",
    "pruned_fraction",
    "mask_overlap",
    "host_seconds",
)
# Columns of the simulated network, if there is one; those of clients are means over participants.
SIMULATED = (
    "simulated_compute_seconds",
    "simulated_communication_seconds",
    "simulated_seconds",
    "cumulative_simulated_seconds",
    "simulated_client_compute_seconds",
    "simulated_client_uplink_seconds",
    "simulated_client_downlink_seconds",
    "simulated_client_waiting_seconds",
    "simulated_server_seconds",
    "compute_joules",
    "transmit_joules",
    "energy_joules",
    "lost_fraction",
)
KEPT = "kept_"  # begins the columns of pruned layers or leaves: the mean fraction kept
ADAPTER_ERROR = "adapter_error"  # of averages of low-rank adapters, where it is not 0
# Streams that every metrics.csv has, 0 where an algorithm sends none; others follow them.
STREAMS = tuple(stream.column for stream in SPLIT_STREAMS if stream.direction != LOCAL)


def columns_of(task: TaskRecord) -> tuple[str, ...]:
    """The columns that every run of a task has, in order."""
    return (*_BEFORE_METRIC, task.loss, *task.columns, *_AFTER_METRIC)


class Metrics:
    """The metrics.csv of one run, open for appending."""

    def __init__(
        self,
        path: Path,
        pruned: Sequence[str] = (),
        simulated: bool = False,
        seal: ledger.Seal | None = None,
        streams: Sequence[str] = STREAMS,
        task: TaskRecord = CLASSIFICATION,
        adapters: bool = False,
        reports: Sequence[str] = (),
    ) -> None:
        """Opens the file; rows past the seal, whole or torn, are cut off.

        Args:
          path: of the file.
          pruned: names of the pruned leaves or layers; each has a column.
          simulated: whether the run has a simulated network, and so its columns.
          seal: seal of the file in the checkpoint to resume from; None starts a new file.
          streams: columns of the streams that the algorithm sends.
          task: what the run is judged by.
          adapters: whether averages of adapters have an error.
          reports: columns of what the algorithm reports.

        Raises:
          UserError: the file is damaged, and the checkpoint has no copy of it.
        """
        columns = (
            *columns_of(task),
            *(f"{stream}_bytes" for stream in streams if stream not in STREAMS),
            *(SIMULATED if simulated else ()),
            *((ADAPTER_ERROR,) if adapters else ()),
            *reports,
            *(f"{KEPT}{name}" for name in pruned),
        )
        self._ledger = ledger.Ledger(path, _lines([columns]), seal)
        self._columns = next(csv.reader(self._ledger.text.splitlines()))

    def append(self, rows: list[Row]) -> None:
        """Appends rows, which are on disk when this returns."""
        self._ledger.append(_lines(_cells(rows, self._columns)))

    def rows(self) -> list[Row]:
        """All rows."""
        return _parsed(self._ledger.text)

    def seal(self) -> ledger.Seal:
        """The seal of all rows, for a checkpoint."""
        return self._ledger.seal()


def as_written(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Rows as they are read back from a file with these columns: in its order, with its digits."""
    return _parsed(_lines([columns, *_cells(rows, columns)]))


def with_digits(row: Row) -> Row:
    """A row with the numbers that are read back from a file, so that a resumed run has the same."""
    return {name: float(_text(v)) if isinstance(v, float) else v for name, v in row.items()}


def known(row: Row) -> Row:
    """The entries of a row that are not empty."""
    return {column: value for column, value in row.items() if value is not None}


def columns_in(path: Path) -> list[str]:
    """The columns of a metrics file.

    Raises:
      UserError: the file is damaged or missing.
    """
    return next(csv.reader(ledger.read(path).splitlines()))


def _cells(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Any]]:
    return [[row.get(column) for column in columns] for row in rows]


def _lines(records: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for values in records:
        writer.writerow([_text(v) if isinstance(v, float) else v for v in values])
    return buffer.getvalue()


def _text(value: float) -> str:
    return f"{value:.9g}"  # nine digits tell any two float32 apart


def read(path: Name, task: TaskRecord = CLASSIFICATION) -> list[Row]:
    """The rows of a metrics file, without a torn last line: integers, floats, None where empty.

    Args:
      path: of the file.
      task: what the run is judged by.

    Raises:
      UserError: the file is damaged, or is not the metrics of a run.
    """
    path = local("metrics", path)
    return rows_in(ledger.read(path), path, task)


def rows_in(text: str, path: Path, task: TaskRecord) -> list[Row]:
    """The rows in the text of a metrics file, as `read`.

    Raises:
      UserError: it is not the metrics of a run.
    """
    try:
        # Earlier builds did not test the model as it is deployed.
        rows = [{task.columns[2]: None, **row} for row in _parsed(text)]
        _ = [row[name] for row in rows for name in columns_of(task)]
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: not the metrics of a run ({error!r})") from None
    if [row["round"] for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError(f"{path}: not the rows of rounds 1 to {len(rows)}; put the file back")
    return rows


def _parsed(text: str) -> list[Row]:
    columns, *lines = list(csv.reader(text.splitlines())) or [[]]
    return [dict(zip(columns, map(_number, values), strict=True)) for values in lines]


def _number(text: str) -> int | float | None:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def streams_of(rows: list[Row]) -> list[str]:
    """The streams whose bytes rows have, such as `smashed_up`."""
    names = [name.removesuffix("_bytes") for name in rows[0] if name.endswith("_bytes")]
    return [name for name in names if name != "cumulative"]


def summarise(
    rows: list[Row], target: float, period: int = 1, task: TaskRecord = CLASSIFICATION
) -> dict[str, Any]:
    """Best and final metric, bytes by stream, and the cost of reaching the target.

    Args:
      rows: all rows of metrics.csv.
      target: deployed value of the metric to reach.
      period: rounds in an aggregation period. The target can only be reached at the end of one:
        before, the tested average has not been sent, and the rows lack its bytes and seconds.
      task: what the run is judged by.

    Returns:
      Plain values; those about the target are None if it was not reached.
    """
    evaluated = [row for row in rows if row[task.tested] is not None]
    best = task.best(evaluated, key=lambda row: row[task.tested])
    sent = [row for row in evaluated if row["round"] % period == 0]
    reached = next((row for row in sent if task.reaches(task.deployed(row), target)), None)
    return {
        "rounds": rows[-1]["round"],
        "task": task.stored,
        **{task.final(column): evaluated[-1][column] for column in task.columns},
        task.best_entry: best[task.tested],
        "best_round": best["round"],
        "target_accuracy": target,
        "rounds_to_target": reached and reached["round"],
        "bytes_to_target": reached and reached["cumulative_bytes"],
        "bytes": {
            stream: sum(row[f"{stream}_bytes"] for row in rows) for stream in streams_of(rows)
        },
        "simulated": _simulated(rows, reached),
        "host_seconds": sum(row["host_seconds"] for row in rows),
    }


def _simulated(rows: list[Row], reached: Row | None) -> dict[str, Any] | None:
    """Totals of the simulated network, seconds and joules to the target; None without network."""
    if "simulated_seconds" not in rows[0]:
        return None

    def total(column: str) -> float:
        return sum(row[column] for row in rows)

    before = [row for row in rows if reached and row["round"] <= reached["round"]]
    seconds = [name for name in SIMULATED if name.startswith("simulated_")]
    return {
        **{name.removeprefix("simulated_"): total(name) for name in seconds},
        **{name: total(name) for name in SIMULATED if name.endswith("_joules")},
        "lost_fraction": total("lost_fraction") / len(rows),
        "seconds_to_target": reached and reached["cumulative_simulated_seconds"],
        "joules_to_target": reached and sum(row["energy_joules"] for row in before),
    }
