"""Records of finished runs: what tables and figures need, so that run folders may be deleted."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jfedsl.config import Config
from jfedsl.config.canonical import canonical, period_of
from jfedsl.errors import DivergedError, UserError
from jfedsl.run.finished import finished
from jfedsl.run.storage.metrics import METRICS, read
from jfedsl.run.storage.task_record import read_record
from jfedsl.run.storage.workdir import read_config, read_summary, write_atomically
from jfedsl.run.training import train_setting
from jfedsl.studies.axes import Point, points
from jfedsl.studies.costs import median_of_rounds, with_costs
from jfedsl.studies.outcome import tested

# Flags that change neither the numbers of a run nor what is recorded of it.
NOT_RECORDED = (
    "workdir", "plugin", "data_dir", "progress", "loggers", "compilation_cache",
    "checkpoint_every", "client_chunk", "figure_format",
)  # fmt: skip
# Entries of a summary that are of the file, or of a target that a study may change.
_OF_FILE = ("crc32", "target_accuracy", "rounds_to_target", "bytes_to_target")
# In the folder of a run that diverged: its flags. Hidden, because a run may start beside it.
DIVERGED = ".diverged.json"
_DIGITS = 7  # significant digits of points; float32 metrics have no more


class Record(NamedTuple):
    """What is kept of a run.

    Attributes:
      setting: its name in the study.
      flags: of the run, its seed included, with their values as written in a flag.
      summary: contents of summary.json; None if training diverged.
      points: its evaluations; none if training diverged.
      median_seconds: simulated seconds of a median round; None without a network.
    """

    setting: str
    flags: dict[str, str]
    summary: dict[str, Any] | None
    points: list[Point]
    median_seconds: float | None = None


def flags_of(config: Config) -> dict[str, str]:
    """The flags of a run that its record names. Runs with the same flags have the same record.

    A target is among them only if it ends the run: what it costs is read off the evaluations.
    """
    left_out = set(NOT_RECORDED) | (set() if config.stop_at_target else {"target_accuracy"})
    return {name: v for name, v in canonical(config).items() if name not in left_out}


def record_of(setting: str, config: Config, summary: Mapping[str, Any] | None) -> Record:
    """The record of a run in its folder.

    Args:
      setting: its name in the study.
      config: of the run.
      summary: contents of its summary.json; None if training diverged.
    """
    if summary is None:
        return Record(setting, flags_of(config), None, [])
    task = read_record(summary)
    rows = read(Path(config.workdir, METRICS), task)
    kept = {name: value for name, value in summary.items() if name not in _OF_FILE}
    if clock := kept["simulated"]:
        kept["simulated"] = {n: v for n, v in clock.items() if not n.endswith("_to_target")}
    evaluations = [_rounded(point) for point in points(rows, task)]
    median = median_of_rounds(rows, period_of(config))
    return Record(setting, flags_of(config), kept, evaluations, median)


def costed(record: Record, target: float, period: int) -> dict[str, Any] | None:
    """The summary of a record with costs, see `with_costs`; None if training diverged."""
    if record.summary is None:
        return None
    return with_costs(record.summary, record.points, record.median_seconds, target, period)


def _rounded(point: Point) -> Point:
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in point]


def read_records(path: Path) -> list[Record]:
    """The records of a file; none if there is no such file.

    Raises:
      UserError: a line of the file is not a record.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(f"line {number} of {path} is not a record of a run") from None
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes records, a line of JSON each; a reader finds the old file or the new one, whole."""
    lines = [json.dumps(record._asdict()) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


class Known:
    """Where records of runs come from: run folders, files of records, or training."""

    def __init__(self, records: Iterable[Record] = (), trains: bool = True) -> None:
        """Takes records that were read; a run folder that is finished counts before them.

        Args:
          records: that were read.
          trains: whether runs that are neither finished nor known are trained.
        """
        self._records = {_key(record.flags): record for record in records}
        self._trains = trains

    def record(self, setting: str, config: Config) -> Record:
        """The record of a run, which is trained unless it is finished or known.

        Args:
          setting: its name in the study.
          config: of the run.

        Raises:
          UserError: it is neither finished nor known, and runs are not trained.
          TrainingError: a checkpoint cannot be written.
        """
        summary = _finished(config)
        known = self.recorded(config)
        if summary is None and known is not None:
            return known._replace(setting=setting)
        if summary is None and not _diverged(config):
            if not self._trains:
                raise UserError(
                    f"{config.workdir} is not a finished run of {setting!r}, which has no record"
                )
            summary = _trained(setting, config)
        return record_of(setting, config, summary)

    def recorded(self, config: Config) -> Record | None:
        """The record of a run that was read, whatever is in the folder of the run."""
        return self._records.get(_key(flags_of(config)))


def _finished(config: Config) -> dict[str, Any] | None:
    """The summary of a finished run, whatever target it had, unless that ends it."""
    folder = Path(config.workdir)
    old = None if config.stop_at_target else read_config(folder, config.plugin)
    if old is not None:
        config = dataclasses.replace(config, target_accuracy=old.target_accuracy)
    return finished(config)


def _key(flags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(flags.items()))


def _diverged(config: Config) -> bool:
    """Whether a run with these flags diverged in this folder."""
    note = Path(config.workdir, DIVERGED)
    return note.exists() and bool(json.loads(note.read_text()) == flags_of(config))


def _trained(setting: str, config: Config) -> dict[str, Any] | None:
    """The summary of a run; None if it diverged."""
    summary = None
    try:
        train_setting(config)
        summary = read_summary(Path(config.workdir))  # as a later start finds it
        result = tested(summary or {})
    except DivergedError as error:
        result = str(error)
        note = json.dumps(flags_of(config))
        write_atomically(Path(config.workdir, DIVERGED), note)
    jax.clear_caches()  # programs that other runs share are in --compilation_cache
    if config.progress != "none":
        print(f"{setting}, seed {config.seed}: {result}", flush=True)
    return summary
